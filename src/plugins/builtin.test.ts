import { describe, expect, it, onTestFinished } from 'vitest';
import type { PluginDefinition } from '../plugin-api/plugin.ts';
import { silentLogger } from '../runtime/log.ts';
import { systemClock } from '../runtime/time.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { startNode } from '../testing/child-process.ts';
import { tempDir } from '../testing/temp-dir.ts';
import {
  agentNodeAttestors,
  dataStores,
  keyManagers,
  serverNodeAttestors,
  workloadAttestors,
} from './builtin.ts';

const tables = { agentNodeAttestors, dataStores, keyManagers, serverNodeAttestors, workloadAttestors };

describe('built-in plugins', () => {
  it.each(Object.entries(tables))('have one definition for each name: %s', (_, definitions) => {
    const names = definitions.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^[a-z][a-z0-9_]*$/);
  });

  it('have both halves of each node attestor', () => {
    const names = (table: readonly { readonly name: string }[]) => table.map(({ name }) => name);
    expect(names(agentNodeAttestors)).toEqual(names(serverNodeAttestors));
  });

  it('can all be created without any settings, and refuse settings they do not have', async () => {
    const dataDir = tempDir();
    const trustDomain = TrustDomain.parse('example.org');
    const context = { trustDomain, dataDir, clock: systemClock, log: silentLogger };
    const make = async <T>(definition: PluginDefinition<unknown, T>) => {
      expect(definition.configSchema.safeParse({ noSuchSetting: 1 }).success).toBe(false);
      return definition.create(definition.configSchema.parse({}), context);
    };
    for (const table of [keyManagers, agentNodeAttestors, workloadAttestors]) {
      for (const definition of table) await make<unknown>(definition);
    }
    for (const definition of dataStores) {
      const store = await make(definition);
      onTestFinished(() => store.close());
      for (const { configSchema, create } of serverNodeAttestors) {
        await create(configSchema.parse({}), { ...context, tokens: store.tokens });
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
      'node-attestor/join-token-config.ts',
      'workload-attestor/unix-config.ts',
    ]);
    expect(all.some((path) => path.endsWith('/workload-attestor/unix.ts'))).toBe(true);
    expect(all.filter((path) => /node_modules\/(kysely|@peculiar|pino)\//.test(path))).toEqual([]);
  });
});
