import { expect, test } from 'vitest';
import { State } from '../gen/signet/health/v1/health.ts';
import { healthy, startAgent } from '../testing/running-agent.ts';

test.each([
  { agent: 'prefer', server: 'prefer', group: 'X25519MLKEM768' },
  { agent: 'prefer', server: 'off', group: 'X25519' },
  { agent: 'off', server: 'prefer', group: 'X25519' },
  { agent: 'require', server: 'require', group: 'X25519MLKEM768' },
])(
  'an agent with $agent at a server with $server is in sync over $group, and its health says so',
  async (both) => {
    const { health } = await startAgent({
      settings: { tls: { postQuantum: both.agent } },
      serverSettings: { tls: { postQuantum: both.server } },
    });
    const { check } = await healthy(health, ({ state }) => state === State.OK);
    expect(check.get('server')?.message).toMatch(
      new RegExp(`^last in sync \\d+ s ago, key exchange ${both.group}$`),
    );
  },
);

test('an agent without post-quantum key exchange at a server that requires it says what to do', async () => {
  const { health } = await startAgent({
    settings: { tls: { postQuantum: 'off' } },
    serverSettings: { tls: { postQuantum: 'require' } },
  });
  const report = await healthy(
    health,
    ({ check }) => check.get('identity')?.message.includes('TLS') === true,
  );
  expect(report.state).toBe(State.NOT_READY);
  expect(report.check.get('identity')?.message).toContain(
    '(tls.postQuantum: off; X25519, P-256, P-384, P-521); ',
  );
  expect(report.check.get('identity')?.message).toContain('set tls.postQuantum: prefer here');
});
