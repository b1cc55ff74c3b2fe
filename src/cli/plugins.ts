import type { PluginContext, PluginDefinition } from '../plugin-api/plugin.ts';
import { parseConfig } from '../runtime/config-file.ts';
import { AppError } from '../runtime/error.ts';

/** One plugin that a configuration names, with its settings checked. */
export interface ChosenPlugin<Instance, Context> {
  readonly name: string;
  create(context: Context): Promise<Instance>;
}

/**
 * Finds the definition of each plugin that `section` names and checks its settings, without creating anything.
 * `where` starts errors, such as `server.yaml: keyManager`. Throws `invalid-argument`.
 */
export function choosePlugins<Instance, Context extends PluginContext>(
  section: Readonly<Record<string, unknown>>,
  definitions: readonly PluginDefinition<unknown, Instance, Context>[],
  where: string,
): readonly ChosenPlugin<Instance, Context>[] {
  return Object.entries(section).map(([name, settings]) => {
    const definition = definitions.find((d) => d.name === name);
    if (definition === undefined) {
      const known = definitions.map((d) => d.name).join(', ');
      throw new AppError('invalid-argument', `${where}: unknown plugin "${name}"; expected one of ${known}`);
    }
    const config = parseConfig(settings ?? {}, definition.configSchema, `${where}.${name}`);
    return { name, create: (context) => definition.create(config, context) };
  });
}

/** As `choosePlugins`, for a section that names exactly one. */
export function choosePlugin<Instance, Context extends PluginContext>(
  section: Readonly<Record<string, unknown>>,
  definitions: readonly PluginDefinition<unknown, Instance, Context>[],
  where: string,
): ChosenPlugin<Instance, Context> {
  const [chosen] = choosePlugins(section, definitions, where);
  if (chosen === undefined) throw new AppError('invalid-argument', `${where}: expected one plugin`);
  return chosen;
}

/** Creates all of them; by name. */
export async function createAll<Instance, Context>(
  chosen: readonly ChosenPlugin<Instance, Context>[],
  context: Context,
): Promise<ReadonlyMap<string, Instance>> {
  const made = await Promise.all(chosen.map(async (c) => [c.name, await c.create(context)] as const));
  return new Map(made);
}
