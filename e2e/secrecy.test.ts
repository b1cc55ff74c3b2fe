import { createPrivateKey } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { WorkloadClient } from '../src/clients/workload-client.ts';
import { signetBinary } from './support/checkout.ts';
import { startMesh } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import { SignetAgent, trySignet } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

/** Ways in which a private key may get into a text: lines of its PEM, and its secret number in what prints bytes. */
function formsOf(pem: string): readonly string[] {
  const lines = pem.split('\n').filter((line) => line.length >= 16 && !line.startsWith('-----'));
  const { d = '' } = createPrivateKey(pem).export({ format: 'jwk' });
  const secret = Buffer.from(d, 'base64url');
  return [...lines, d, secret.toString('hex'), secret.toString('base64'), [...secret].join(',')];
}

async function filesBelow(dir: string): Promise<readonly string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

async function privateKeysBelow(dir: string): Promise<readonly string[]> {
  const texts = await Promise.all((await filesBelow(dir)).map((path) => readFile(path, 'latin1')));
  return texts.flatMap(
    (text) => text.match(/-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/g) ?? [],
  );
}

describeWith({ envoy: true, linux: true }, 'secrets', () => {
  it('are in no log and no output of a whole run, not even at level trace', async () => {
    const sandbox = await testSandbox();
    const log = { level: 'trace' };
    const mesh = await startMesh(sandbox, {
      server: { log, authority: { caTtl: '60s', x509SvidTtl: '6s', agentTtl: '6s' } },
      agent: { log },
    });
    const { server, agent } = mesh;
    const secrets = new Map<string, string>();
    const outputs: string[] = [];
    const run = async (...args: string[]) => {
      const { stdout, stderr } = await trySignet(args);
      outputs.push(stdout, stderr);
    };

    // A token that is not redeemed yet, one that was, and one that is wrong, as the agent's own configuration says.
    const config = await readFile(agent.configPath, 'utf8');
    const [, spent = ''] = /token: (\S+)/.exec(config) ?? [];
    const fresh = await server.createToken('spiffe://example.org/node/fresh');
    expect([spent, fresh]).toEqual([expect.stringMatching(/^\S{43}$/), expect.stringMatching(/^\S{43}$/)]);
    secrets.set('spent token', spent).set('fresh token', fresh);
    for (const [i, join_token] of [
      `{ token: ${fresh}`,
      fresh,
      `{ tokn: ${fresh} }`,
      `[${fresh}]`,
    ].entries()) {
      const wrong = join(sandbox.dir, `wrong-${i}.yaml`);
      await writeFile(wrong, config.replace(/join_token:[\s\S]*?\n(?=\S)/, `join_token: ${join_token}\n`));
      await run('agent', 'check', '--config', wrong);
      expect(outputs.at(-1)).toMatch(/^signet: .*wrong-/);
    }
    const thief = await SignetAgent.prepare(sandbox, {
      name: 'thief',
      server,
      config: { log, nodeAttestor: { join_token: { token: spent } } },
    });
    await thief.launch();
    await thief.process.waitForLine(/attestation failed/);
    await run('health', '--socket', thief.adminSocket);

    // An identity of this very program, and a rotation of it; what the agent gave is known here.
    const socket = ['--socket', agent.socket];
    const selectors = [`unix:path:${process.execPath}`];
    await server.createEntry({ spiffeId: 'spiffe://example.org/me', parent: agent.alias, selectors });
    const client = WorkloadClient.connect(`unix://${agent.socket}`);
    sandbox.onDispose(() => client.close());
    for await (const update of client.watchX509Svids(AbortSignal.timeout(30_000))) {
      for (const { privateKeyPem } of update.svids)
        secrets.set(`workload key ${secrets.size}`, privateKeyPem);
      if (secrets.size >= 4) break;
    }
    const watch = await sandbox.start({
      name: 'workload x509 --watch',
      command: signetBinary,
      args: ['workload', 'x509', '--watch', '-o', 'yaml', ...socket],
    });
    await watch.waitForLine(/notAfter/);
    await watch.stop({ signal: 'SIGINT' });
    await run('workload', 'x509', ...socket);
    await run('workload', 'x509', '-o', 'json', ...socket);
    const admin = ['--socket', server.adminSocket];
    for (const args of [['bundle', 'show', '-o', 'json'], ['entry', 'list', '-o', 'json'], ['health']]) {
      await run(...args, ...admin);
    }
    await agent.process.waitForLine(/agent SVID renewed/);
    await mesh.sidecars.firstAnswer();

    const serverFiles = await filesBelow(server.dataDir);
    const stored = await Promise.all(serverFiles.map((path) => readFile(path, 'latin1')));
    for (const [i, pem] of (await privateKeysBelow(server.dataDir)).entries())
      secrets.set(`server key ${i}`, pem);
    for (const [i, pem] of (await privateKeysBelow(agent.dataDir)).entries())
      secrets.set(`agent key ${i}`, pem);
    expect([...secrets.keys()]).toEqual(
      expect.arrayContaining(['server key 0', 'agent key 0', 'workload key 2', 'workload key 3']),
    );
    for (const process of sandbox.processes) {
      await process.stop();
      // Longer outputs would have lost lines.
      expect(process.lines.length).toBeLessThan(4_000);
      outputs.push(...process.lines);
    }

    const text = outputs.join('\n');
    expect(text).toContain('"level":"debug"');
    expect(text).toContain('join token redeemed');
    for (const [name, secret] of secrets) {
      const forms = name.endsWith('token') ? [secret] : formsOf(secret);
      expect(forms.length).toBeGreaterThan(0);
      for (const form of forms) expect([name, text.includes(form)]).toEqual([name, false]);
    }
    // Tokens are stored as hashes only, from the first day on.
    expect(serverFiles).toContain(join(server.dataDir, 'signet.db'));
    for (const token of [spent, fresh]) expect(stored.some((content) => content.includes(token))).toBe(false);
  });
});
