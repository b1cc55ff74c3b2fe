import { describe, expect, it } from 'vitest';
import { healthApi } from '../rpc/health-api.ts';
import { loggerApi } from '../rpc/logger-api.ts';
import { createLogger } from '../runtime/log.ts';
import { CapturedOutput } from '../testing/captured-output.ts';
import { startListener } from '../testing/grpc-listener.ts';
import { runCommandLine } from './program.ts';

/** A process of this role with an admin socket, and the command line on its host. */
async function start(role: 'server' | 'agent') {
  const log = createLogger({ level: 'info', format: 'json', write: () => undefined });
  const health = healthApi({ role, trustDomain: 'example.org', startedAtMs: 0, checks: async () => [] });
  const { address } = await startListener({ services: [health, loggerApi(role, log)] });
  const output = new CapturedOutput();
  const signet = async (...words: readonly string[]) => {
    output.clear();
    const code = await runCommandLine(['node', 'signet', 'log-level', ...words, '--socket', address]);
    return { code, stdout: output.stdout, stderr: output.stderr };
  };
  return { log, signet };
}

describe.each(['server', 'agent'] as const)('log-level of the %s', (role) => {
  it('shows, sets and resets it', async () => {
    const { log, signet } = await start(role);
    expect(await signet('get')).toMatchObject({ code: 0, stdout: `${role}: info\n` });
    expect(await signet('set', 'debug')).toMatchObject({
      code: 0,
      stdout: `${role}: debug (at the start: info)\n`,
    });
    expect(log.level).toBe('debug');
    expect(await signet('get', '-q')).toMatchObject({ code: 0, stdout: 'debug\n' });
    const { stdout } = await signet('get', '-o', 'json');
    expect(JSON.parse(stdout)).toEqual({ role, level: 'debug', launchLevel: 'info' });
    expect(await signet('reset')).toMatchObject({ code: 0, stdout: `${role}: info\n` });
    expect(log.level).toBe('info');
  });
});

it.each([
  { words: ['set', 'loud'], says: 'trace, debug, info, warn, error' },
  { words: ['set'], says: 'level' },
])('log-level $words is wrong usage', async ({ words, says }) => {
  const { log, signet } = await start('server');
  expect(await signet(...words)).toMatchObject({ code: 2, stderr: expect.stringContaining(says) });
  expect(log.level).toBe('info');
});
