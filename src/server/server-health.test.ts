import { describe, expect, it } from 'vitest';
import { HealthService, State } from '../gen/signet/health/v1/health.ts';
import type { KeyManager } from '../plugin-api/key-manager.ts';
import { MemoryKeyManager } from '../plugins/key-manager/memory.ts';
import { callUnary } from '../rpc/grpc-client.ts';
import { TestServer } from '../testing/test-server.ts';
import { findLocalRoot } from './config.ts';

describe('the health of a server below a root of its own', () => {
  it('is that of both certificates, and says why the last step of one failed', async () => {
    let isAway = false;
    const memory = new MemoryKeyManager();
    const keyManager: KeyManager = {
      generateKey: (id, type) => memory.generateKey(id, type),
      findKey: (id) => memory.findKey(id),
      listKeys: () => (isAway ? Promise.reject(new Error('the HSM is away')) : memory.listKeys()),
      deleteKey: (id) => memory.deleteKey(id),
    };
    const server = await TestServer.start({
      settings: { upstreamAuthority: { local_root: { keyManager: { disk: {} } } } },
      upstream: (config) => ({ kind: 'local-root', config: findLocalRoot(config, 'test')!, keyManager }),
    });
    const health = async () => {
      const { state, checks } = await callUnary(server.adminChannel, HealthService.getHealth, {});
      return { state, messages: checks.map(({ name, message }) => `${name}: ${message}`) };
    };
    const sound = await health();
    expect(sound.state).toBe(State.OK);
    expect(sound.messages[0]).toMatch(/^authority: signing certificate expires .*, successor due /);
    expect(sound.messages[1]).toMatch(/^root: root expires .*, successor due /);
    isAway = true;
    const { sleepers } = server.clock;
    await server.clock.advance(10_000);
    await server.clock.untilSleepers(sleepers);
    await expect.poll(health).toMatchObject({ state: State.DEGRADED });
    expect((await health()).messages[1]).toMatch(/^root: the HSM is away; root expires /);
  });
});
