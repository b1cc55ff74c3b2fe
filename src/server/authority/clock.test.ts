import { describe, expect, it } from 'vitest';
import { DiskKeyManager } from '../../plugins/key-manager/disk.ts';
import { AuthorityProcess, type AuthorityProcessOptions } from '../../testing/authority-process.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { findLocalRoot } from '../config.ts';

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

type Topology = 'self-signed' | 'local_root';

async function optionsOf(topology: Topology): Promise<AuthorityProcessOptions> {
  const common = { dataDir: tempDir(), clock: new FakeClock() };
  if (topology === 'self-signed') return common;
  const keyManager = await DiskKeyManager.open({ dataDir: tempDir() });
  return {
    ...common,
    settings: { upstreamAuthority: { local_root: { keyManager: { disk: {} }, rootTtl: '30d' } } },
    upstream: (config) => ({ kind: 'local-root', config: findLocalRoot(config, 'test')!, keyManager }),
  };
}

describe.each<{ topology: Topology }>([{ topology: 'self-signed' }, { topology: 'local_root' }])(
  'an authority that is $topology',
  ({ topology }) => {
    const start = async () => AuthorityProcess.ready(await optionsOf(topology));
    const whole = async (server: AuthorityProcess) => {
      const [leaf] = await server.issue();
      expect(leaf?.notAfterMs).toBe(Math.floor(server.clock.now() / 1000) * 1000 + hourMs);
    };

    it.each(
      [-1, 1].flatMap((hours) => [0.5, 11.5, 12.2, 19.5, 20.2, 21.5, 22.2].map((age) => ({ hours, age }))),
    )(
      'goes on when its clock is set by $hours h at an age of $age h, and set right again',
      async ({ hours, age }) => {
        const server = await start();
        await server.live(age * hourMs);
        for (const step of [hours, -hours]) {
          server.clock.stepWallClock(step * hourMs);
          await server.step();
          await whole(server);
          // Two minutes of what a running server does.
          await server.live(120_000, 10_000);
          await whole(server);
        }
        expect((await server.journal()).filter((line) => line.startsWith('signing active'))).toHaveLength(1);
        await server.live(2 * dayMs);
        await whole(server);
      },
    );

    it.each([
      { name: 'the preparation', hours: 13, activates: false },
      { name: 'the takeover', hours: 21, activates: false },
      { name: 'the takeover by force', hours: 22.5, activates: true },
    ])('that slept over $name does at its next step what is due', async ({ hours, activates }) => {
      const server = await start();
      const first = server.signing;
      // Before: what an agent asks in the first seconds after the sleep.
      server.clock.stepWallClock(hours * hourMs);
      await server.issue();
      await server.step();
      await server.step();
      expect(server.signing?.fingerprint === first?.fingerprint).toBe(!activates);
      await whole(server);
      await server.live(2 * hourMs);
      await whole(server);
    });

    it('whose certificate expired while it was down, or asleep, makes another at its first step', async () => {
      for (const isDown of [true, false]) {
        const before = await start();
        const first = before.signing;
        before.clock.stepWallClock(dayMs + 1);
        if (!isDown) await expect(before.issue()).rejects.toMatchObject({ code: 'unavailable' });
        const server = isDown ? await before.restart() : before;
        await server.step();
        await whole(server);
        expect(server.signing?.fingerprint).not.toBe(first?.fingerprint);
      }
    });

    it('all of whose certificates expired while it was down begins anew', async () => {
      const before = await start();
      await before.clock.advance(40 * dayMs);
      const after = await before.restart();
      await after.step();
      await whole(after);
      expect(after.served).toHaveLength(1);
    });
  },
);
