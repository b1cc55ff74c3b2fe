import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { PluginDefinition } from '../plugin-api/plugin.ts';
import { silentLogger } from '../runtime/log.ts';
import { systemClock } from '../runtime/time.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { startNode } from '../testing/child-process.ts';
import { tempDir } from '../testing/temp-dir.ts';
import {
  agentKeyManagers,
  agentNodeAttestors,
  dataStores,
  keyManagers,
  serverNodeAttestors,
  upstreamAuthorities,
  workloadAttestors,
} from './builtin.ts';

const tables = {
  agentKeyManagers,
  agentNodeAttestors,
  dataStores,
  keyManagers,
  serverNodeAttestors,
  upstreamAuthorities,
  workloadAttestors,
};

describe('built-in plugins', () => {
  it.each(Object.entries(tables))('have one definition for each name: %s', (_, definitions) => {
    const names = definitions.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^[a-z][a-z0-9_]*$/);
  });

  it('keep keys of agents only where they can be had as they are', () => {
    expect(agentKeyManagers.map(({ name }) => name)).toEqual(['disk', 'memory']);
  });

  it('have both halves of each node attestor', () => {
    const names = (table: readonly { readonly name: string }[]) => table.map(({ name }) => name);
    expect(names(agentNodeAttestors)).toEqual(names(serverNodeAttestors));
  });

  it('can all be created with the fewest settings, and refuse settings they do not have', async () => {
    const dataDir = tempDir();
    const caFile = join(dataDir, 'ca.pem');
    const keyFile = join(dataDir, 'ca.key');
    const authority = await TestIdentity.root('nodes');
    await writeFile(caFile, authority.certificate.toPem());
    await writeFile(keyFile, authority.privateKeyPem, { mode: 0o600 });
    // Of those that cannot do without any: both halves together, each takes its own.
    const settings: Readonly<Record<string, readonly object[]>> = {
      x509pop: [{ caFile }, { certFile: '/no/such/file', keyFile: '/no/such/file' }],
      pkcs11: [{ module: '/no/such/module.so', tokenLabel: 'ca', pinFile: '/no/such/file' }],
    };
    const trustDomain = TrustDomain.parse('example.org');
    const context = {
      trustDomain,
      dataDir,
      clock: systemClock,
      log: silentLogger,
      keyNamespace: 'server',
    };
    const configFor = ({
      name,
      configSchema,
    }: Pick<PluginDefinition<unknown, unknown>, 'name' | 'configSchema'>) => {
      const candidates = (settings[name] ?? [{}]).map((value) => configSchema.safeParse(value));
      const sound = candidates.find((candidate) => candidate.success);
      if (sound === undefined) throw new Error(`no settings for ${name}`);
      return sound.data;
    };
    const make = async <T>(definition: PluginDefinition<unknown, T, typeof context>) => {
      expect(definition.configSchema.safeParse({ noSuchSetting: 1 }).success).toBe(false);
      return definition.create(configFor(definition), context);
    };
    for (const table of [agentKeyManagers, agentNodeAttestors, workloadAttestors]) {
      for (const definition of table) await make<unknown>(definition);
    }
    for (const definition of keyManagers) {
      const made = make<unknown>(definition);
      if (definition.name !== 'pkcs11') await made;
      else await expect(made).rejects.toThrow('/no/such/module.so');
    }
    for (const definition of upstreamAuthorities) {
      const config = definition.configSchema.parse({ certFile: caFile, keyFile });
      await definition.create(config, { ...context, nameConstraints: false });
    }
    for (const definition of dataStores) {
      const store = await make(definition);
      onTestFinished(() => store.close());
      for (const definition of serverNodeAttestors) {
        await definition.create(configFor(definition), { ...context, tokens: store.tokens });
      }
    }
  });

  it('load nothing of a plugin before it is created', async () => {
    const url = JSON.stringify(new URL('./builtin.ts', import.meta.url).href);
    const child = startNode(`
      import { registerHooks } from 'node:module';
      const loaded = [];
      registerHooks({ load: (url, context, next) => (loaded.push(url), next(url, context)) });
      const { workloadAttestors } = await import(${url});
      const before = loaded.filter((u) => u.includes('/src/plugins/'));
      await workloadAttestors[0].create({ hashExecutable: true, maxExecutableBytes: 1 }, {});
      console.log(JSON.stringify({ before, all: loaded }));
    `);
    const { before, all } = JSON.parse(await child.nextLine()) as Record<'before' | 'all', string[]>;
    const names = before.map((path) => path.split('/src/plugins/')[1]);
    expect(names.sort()).toEqual([
      'builtin.ts',
      'key-manager/pkcs11-config.ts',
      'node-attestor/agent-path-template.ts',
      'node-attestor/join-token-config.ts',
      'node-attestor/x509pop-config.ts',
      'upstream-authority/disk-config.ts',
      'workload-attestor/unix-config.ts',
    ]);
    expect(all.some((path) => path.endsWith('/workload-attestor/unix.ts'))).toBe(true);
    expect(all.filter((path) => /node_modules\/(kysely|@peculiar|pino)\//.test(path))).toEqual([]);
  });
});
