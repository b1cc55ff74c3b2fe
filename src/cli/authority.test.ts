import { describe, expect, it } from 'vitest';
import { MemoryKeyManager } from '../plugins/key-manager/memory.ts';
import { findLocalRoot } from '../server/config.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { CapturedOutput } from '../testing/captured-output.ts';
import { noAbort, TestServer } from '../testing/test-server.ts';
import { runCommandLine } from './program.ts';

async function start(topology: 'self-signed' | 'local_root' = 'self-signed') {
  const server = await TestServer.start(
    topology === 'self-signed'
      ? {}
      : {
          settings: { upstreamAuthority: { local_root: { keyManager: { disk: {} } } } },
          upstream: (config) => ({
            kind: 'local-root',
            config: findLocalRoot(config, 'test')!,
            keyManager: new MemoryKeyManager(),
          }),
        },
  );
  const output = new CapturedOutput();
  const run = async (...words: readonly string[]) => {
    output.clear();
    const socket = ['--socket', server.adminSocket];
    const code = await runCommandLine(['node', 'signet', 'authority', ...words, ...socket]);
    return { code, stdout: output.stdout, stderr: output.stderr };
  };
  const ok = async (...words: readonly string[]) => {
    const result = await run(...words);
    expect(result).toMatchObject({ code: 0 });
    return result;
  };
  const show = async () => JSON.parse((await ok('x509', 'show', '-o', 'json')).stdout);
  const quiet = async (...words: readonly string[]) => (await ok('x509', ...words, '-q')).stdout.trim();
  return { server, run, ok, show, quiet };
}

describe('authority x509 show', () => {
  it('shows what is active, until when, what happens next and when', async () => {
    const { ok, server, quiet } = await start();
    const { stdout } = await ok('x509', 'show');
    const id = await quiet('show');
    const at = (hours: number) =>
      `${new Date(Math.floor(server.clock.now() / 1000 + hours * 3600) * 1000).toISOString().slice(0, 16)}`;
    expect(stdout).toMatch(/^STATE +ROLE +ID +EXPIRES AT +SIGNS SINCE +ROOT +IN USE +REMARKS\n/);
    expect(stdout).toMatch(new RegExp(`\nactive +signing +${id} +${at(24)}:\\d\\dZ +${at(0)}`));
    expect(stdout).toContain('topology      self-signed');
    expect(stdout).toContain('all connected ones hold the trust bundle');
    expect(stdout).toMatch(new RegExp(`\n${at(12)}.*its successor is prepared and published\n`));
    expect(stdout).toMatch(new RegExp(`\n${at(20)}.*takes over once all connected agents hold its root`));
    expect(stdout).toMatch(new RegExp(`\n${at(24)}.*it expires`));
  });

  it('has the same as one JSON document', async () => {
    const { show } = await start('local_root');
    const { authorities, topology, next, agentsBehind, longestKeptTtl } = await show();
    expect(authorities.map(({ role, state }: { role: string; state: string }) => `${role} ${state}`)).toEqual(
      ['signing active', 'root active'],
    );
    expect(authorities[0]).toMatchObject({ rootId: authorities[1].id, isInBundle: true, keyType: 'ec-p256' });
    expect({ topology, agentsBehind, longestKeptTtl }).toEqual({
      topology: 'local_root',
      agentsBehind: 0,
      longestKeptTtl: 7200,
    });
    expect(next[0]).toMatchObject({
      authorityId: authorities[0].id,
      what: expect.stringContaining('prepared'),
    });
  });
});

describe('the rotation by hand', () => {
  it('goes from prepare to revoke, and says the next step each time', async () => {
    const { ok, quiet, show, server } = await start();
    const before = await quiet('show');
    await server.mint(SpiffeId.parse('spiffe://example.org/job'), 60);
    const prepared = await ok('x509', 'prepare');
    const [, next = ''] = /\bid +([0-9a-f]{40})\n/.exec(prepared.stdout) ?? [];
    expect(prepared.stderr).toContain(`signet authority x509 activate ${next}`);
    await ok('x509', 'activate', next);
    expect(await quiet('show')).toBe(next);
    const tainted = await ok('x509', 'taint', before);
    expect(tainted.stderr).toContain(`signet authority x509 revoke ${before}`);
    const shown = (await ok('x509', 'show')).stdout;
    expect(shown).toMatch(new RegExp(`old +signing +${before} .*1 SVIDs, 0 agents, 1 minted +tainted 2`));
    expect(shown).toContain('1 SVIDs of it are in use');
    await server.clock.advance(120_000);
    expect((await ok('x509', 'show')).stdout).toMatch(/now .*nothing of it is in use: it can be revoked/);
    expect((await ok('x509', 'revoke', before)).stdout).toBe(`revoked ${before}\n`);
    const { authorities } = await show();
    expect(authorities[1]).toMatchObject({ id: before, isInBundle: false });
  });

  it('asks for force where connections would break', async () => {
    const { run, ok, quiet, server } = await start();
    const before = await quiet('show');
    const agent = await server.join();
    await agent.client.getBundle({ signal: noAbort });
    const next = await quiet('prepare');
    await agent.client.getBundle({ signal: noAbort });
    const early = await run('x509', 'activate', next);
    expect(early).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('1 connected agents do not hold'),
    });
    expect(early.stderr).toContain('--force');
    await ok('x509', 'activate', next, '--force');
    await ok('x509', 'taint', before);
    const inUse = await run('x509', 'revoke', before);
    expect(inUse).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('1 SVIDs of 1 agents are still in use'),
    });
    await ok('x509', 'revoke', before, '--force');
  });

  it('takes a root of our own away by its own ID, and says so when another is named', async () => {
    const { run, ok, show } = await start('local_root');
    const [oldCa, oldRoot] = (await show()).authorities;
    const next = JSON.parse((await ok('x509', 'prepare', '--new-root', '-o', 'json')).stdout);
    expect(next.rootId).not.toBe(oldRoot.id);
    await ok('x509', 'activate', next.id);
    const refused = await run('x509', 'taint', oldCa.id);
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining(`name the root`) });
    expect(refused.stderr).toContain(oldRoot.id);
    await ok('x509', 'taint', oldRoot.id);
    await ok('x509', 'revoke', oldRoot.id);
    const left = (await show()).authorities.find(({ id }: { id: string }) => id === oldRoot.id);
    expect(left).toMatchObject({ role: 'root', state: 'old', isInBundle: false });
  });

  it('explains what cannot be done', async () => {
    const { run, quiet } = await start();
    const active = await quiet('show');
    for (const [words, says] of [
      [['x509', 'taint', active], 'unable to taint current local authority'],
      [['x509', 'activate', 'ab'], 'unexpected authority ID'],
      [['x509', 'revoke', 'ab'], 'only Old local authority can be revoked'],
      [['x509', 'prepare', '--new-root'], 'local_root'],
    ] as const) {
      expect(await run(...words)).toMatchObject({ code: 1, stderr: expect.stringContaining(says) });
    }
  });
});

describe('authority prune', () => {
  it('finds nothing on a server that has not crashed', async () => {
    const { ok } = await start();
    expect((await ok('prune')).stderr).toContain('0 keys found');
    expect(JSON.parse((await ok('prune', '--yes', '-o', 'json')).stdout)).toEqual([]);
  });
});
