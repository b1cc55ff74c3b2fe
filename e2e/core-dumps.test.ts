import { readFileSync, statSync } from 'node:fs';
import { expect, it } from 'vitest';
import { signetBinary } from './support/checkout.ts';
import { describeWith } from './support/parts.ts';
import type { Sandbox } from './support/sandbox.ts';
import { SignetAgent, SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

/** Starts a role anew, allowed to write core dumps as large as they get here. */
async function restart(sandbox: Sandbox, role: 'server' | 'agent', { configPath }: { configPath: string }) {
  const allow = 'ulimit -c "$(ulimit -H -c)"; exec "$0" "$@"';
  const args = ['-c', allow, signetBinary, role, 'run', '--config', configPath];
  const started = await sandbox.start({ name: `signet ${role}`, command: 'sh', args });
  await started.waitForLine(new RegExp(`${role} ready`));
  return started;
}

describeWith({ linux: true }, 'a process that holds private keys', () => {
  it('leaves no core dump, whatever it was allowed, and keeps its memory from other processes', async () => {
    const sandbox = await testSandbox();
    const server = await SignetServer.start(sandbox);
    const agent = await SignetAgent.join(sandbox, { server });
    await Promise.all([agent.stop(), server.stop()]);
    for (const [role, { configPath }] of Object.entries({ server, agent } as const)) {
      const { pid } = await restart(sandbox, role as 'server' | 'agent', { configPath });
      const limits = readFileSync(`/proc/${pid}/limits`, 'utf8');
      expect(limits).toMatch(/^Max core file size\s+0\s+0\s/m);
      // The kernel gives what it shows of such a process to root; that tells something where it runs as another user.
      expect(statSync(`/proc/${pid}/limits`).uid).toBe(0);
    }
  });
});
