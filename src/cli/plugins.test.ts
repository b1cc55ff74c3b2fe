import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import type { PluginContext, PluginDefinition } from '../plugin-api/plugin.ts';
import { silentLogger } from '../runtime/log.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { choosePlugin, choosePlugins, createAll } from './plugins.ts';

const context: PluginContext = {
  trustDomain: TrustDomain.parse('example.org'),
  dataDir: '/nowhere',
  clock: new FakeClock(),
  log: silentLogger,
};

/** A table of two plugins that make texts, and how many were made. */
function table() {
  const made: string[] = [];
  const create = (name: string) => async (config: unknown) => {
    made.push(name);
    return `${name} ${JSON.stringify(config)}`;
  };
  const definitions: readonly PluginDefinition<unknown, string>[] = [
    {
      name: 'disk',
      configSchema: z.strictObject({ depth: z.number().default(1) }),
      create: create('disk'),
    },
    { name: 'memory', configSchema: z.strictObject({}), create: create('memory') },
  ];
  return { made, definitions };
}

const refusal = (text: string) =>
  expect.objectContaining({ code: 'invalid-argument', message: expect.stringContaining(text) });

describe('the plugins that a configuration names', () => {
  it('are made with their own checked settings, by name', async () => {
    const { definitions, made } = table();
    const chosen = choosePlugins({ memory: {}, disk: { depth: 2 } }, definitions, 'a.yaml: keyManager');
    expect(made).toEqual([]);
    expect([...(await createAll(chosen, context))]).toEqual([
      ['memory', 'memory {}'],
      ['disk', 'disk {"depth":2}'],
    ]);
  });

  it('need no settings: an empty value means defaults', async () => {
    const { definitions } = table();
    const chosen = choosePlugin({ disk: null }, definitions, 'a.yaml: keyManager');
    expect(await chosen.create(context)).toBe('disk {"depth":1}');
  });

  it('may be none where none is needed', async () => {
    expect((await createAll(choosePlugins({}, table().definitions, 'a'), context)).size).toBe(0);
  });

  it('must be known', () => {
    const { definitions } = table();
    expect(() => choosePlugins({ hsm: {} }, definitions, 'a.yaml: keyManager')).toThrow(
      refusal('a.yaml: keyManager: unknown plugin "hsm"; expected one of disk, memory'),
    );
  });

  it('are not found by what every object has', () => {
    expect(() => choosePlugins({ constructor: {} }, table().definitions, 'a')).toThrow(
      refusal('unknown plugin'),
    );
  });

  it.each([
    [{ disk: { deep: 1 } }, 'a.yaml: keyManager.disk.deep: unknown key'],
    [{ disk: { depth: 'x' } }, 'a.yaml: keyManager.disk.depth: '],
    [{ disk: [] }, 'a.yaml: keyManager.disk: '],
  ])('have mistakes in their settings said with the path: %j', (section, says) => {
    const { definitions } = table();
    expect(() => choosePlugins(section, definitions, 'a.yaml: keyManager')).toThrow(refusal(says));
  });

  it('must be there where one is needed', () => {
    expect(() => choosePlugin({}, table().definitions, 'a.yaml: keyManager')).toThrow(
      refusal('a.yaml: keyManager: expected one plugin'),
    );
  });

  it('that cannot be made fail as a whole', async () => {
    const broken: PluginDefinition<unknown, string> = {
      name: 'broken',
      configSchema: z.unknown(),
      create: () => Promise.reject(new Error('no disk')),
    };
    const chosen = choosePlugins({ memory: {}, broken: {} }, [...table().definitions, broken], 'a');
    await expect(createAll(chosen, context)).rejects.toThrow('no disk');
  });
});
