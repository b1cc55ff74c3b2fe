import { stringify } from 'yaml';
import { z } from 'zod';
import { agentConfigSchema } from '../src/agent/config.ts';
import {
  agentKeyManagers,
  agentNodeAttestors,
  dataStores,
  keyManagers,
  serverNodeAttestors,
  upstreamAuthorities,
  workloadAttestors,
} from '../src/plugins/builtin.ts';
import { localRootSettings, serverConfigSchema } from '../src/server/config.ts';

interface Plugin {
  readonly name: string;
  readonly configSchema: z.ZodType;
}

/** The part of JSON Schema that our settings use. */
interface Schema {
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly anyOf?: readonly Schema[];
}

const introduction = `# Configuration reference

Generated from the program by \`make generate\`; do not edit. Files are YAML; unknown keys are errors.
Durations are \`90s\`, \`15m\`, \`24h\`, \`7d\`. Where a setting names plugins, it is a map from a plugin's name to the
plugin's own settings, such as \`keyManager: { disk: {} }\`.`;

/** The page \`docs/configuration.md\`: every setting with its meaning and default. Throws when one has no description. */
export function configReference(): string {
  return [
    introduction,
    chapter('Server: `server.yaml`', serverConfigSchema, {
      dataStore: dataStores,
      keyManager: keyManagers,
      upstreamAuthority: [{ name: 'local_root', configSchema: localRootSettings }, ...upstreamAuthorities],
      nodeAttestors: serverNodeAttestors,
    }),
    chapter('Agent: `agent.yaml`', agentConfigSchema, {
      nodeAttestor: agentNodeAttestors,
      keyManager: agentKeyManagers,
      workloadAttestors,
    }),
    '',
  ].join('\n\n');
}

function chapter(
  title: string,
  schema: z.ZodType,
  plugins: Readonly<Record<string, readonly Plugin[]>>,
): string {
  const sections = Object.entries(plugins).flatMap(([setting, kinds]) =>
    kinds.map(({ name, configSchema }) => {
      const settings = table(configSchema, `${setting}.${name}`);
      return `### \`${setting}: { ${name}: … }\`\n\n${settings ?? 'No settings.'}`;
    }),
  );
  return [`## ${title}`, table(schema, title), ...sections].join('\n\n');
}

function table(schema: z.ZodType, where: string): string | undefined {
  const rows = settingsOf(z.toJSONSchema(schema, { io: 'input' }) as Schema, '', where);
  if (rows.length === 0) return undefined;
  return ['| setting | default | meaning |', '| --- | --- | --- |', ...rows].join('\n');
}

function settingsOf(schema: Schema, path: string, where: string): string[] {
  return Object.entries(schema.properties ?? {}).flatMap(([key, setting]) => {
    const name = path === '' ? key : `${path}.${key}`;
    const alternatives = setting.anyOf ?? [];
    const inner = [setting, ...alternatives.map((one) => ({ ...one, required: [] }))].flatMap((one) =>
      settingsOf(one, name, where),
    );
    if (setting.properties !== undefined) return inner;
    if (setting.description === undefined)
      throw new Error(`${where}: the setting "${name}" has no description`);
    const isRequired = schema.required?.includes(key) === true && setting.default === undefined;
    return [row(name, setting, isRequired), ...inner];
  });
}

function row(name: string, setting: Schema, isRequired: boolean): string {
  const missing = isRequired ? 'required' : '–';
  const preset = setting.default === undefined ? missing : `\`${flow(setting.default)}\``;
  const choices =
    setting.enum === undefined ? [] : [`One of ${setting.enum.map((value) => `\`${value}\``).join(', ')}.`];
  return `| \`${name}\` | ${preset} | ${[setting.description, ...choices].join(' ')} |`;
}

/** YAML on one line. */
function flow(value: unknown): string {
  return stringify(value, { collectionStyle: 'flow' }).trim();
}
