import { expect, test } from 'vitest';
import { type AgentStatus, healthChecks } from './health-checks.ts';

const status: AgentStatus = {
  nowMs: 0,
  intervalMs: 5_000,
  svid: undefined,
  identityProblem: undefined,
  bannedId: undefined,
  keyExchange: undefined,
  sync: {
    lastSyncMs: undefined,
    problems: { sync: undefined, signing: undefined },
    federation: { wanted: 0, held: 0, problems: new Map() },
  },
  entries: 0,
  held: 0,
  sharedRefusals: [],
  peerIdentification: 'SO_PEERPIDFD',
};

function proxiesCheck(sharedRefusals: AgentStatus['sharedRefusals']) {
  return healthChecks({ ...status, sharedRefusals }).find(({ name }) => name === 'proxies refuse a secret');
}

test('a secret that several proxies refuse degrades the agent, with its name, their words and what to do', () => {
  expect(proxiesCheck([])).toBeUndefined();
  const refusal = { name: 'default', version: '0123', error: 'KEY_VALUES_MISMATCH', pids: [7, 8] };
  expect(proxiesCheck([refusal])).toMatchObject({
    state: 'degraded',
    message: '2 proxies refuse "default" (version 0123): KEY_VALUES_MISMATCH',
    nextStep: expect.stringContaining('signet proxy list --refused'),
  });
  expect(proxiesCheck([refusal, refusal, refusal])?.message).toMatch(/; and 2 more such secrets$/);
});
