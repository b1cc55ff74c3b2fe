import { createPublicKey, X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile, realpath, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { signetBinary } from './support/checkout.ts';
import { eventually } from './support/eventually.ts';
import { describeWith } from './support/parts.ts';
import type { RunningProcess } from './support/process.ts';
import type { Sandbox } from './support/sandbox.ts';
import { SignetAgent, SignetServer, trySignet } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

const spiffeId = 'spiffe://example.org/files';
const selector = `unix:path:${process.execPath}`;

async function startParts(sandbox: Sandbox) {
  const server = await SignetServer.start(sandbox);
  const agent = await SignetAgent.join(sandbox, { server });
  const env = { SPIFFE_ENDPOINT_SOCKET: `unix://${agent.socket}` };
  return { server, agent, env };
}

/** The certificate in the directory, after a check that its key, opened separately, belongs to it. */
async function readIdentity(directory: string) {
  // Resolved once, as docs/files-for-applications.md has it.
  const set = await realpath(join(directory, 'current'));
  const [cert, key, bundle] = await Promise.all(
    ['svid.pem', 'svid_key.pem', 'bundle.pem'].map((name) => readFile(join(set, name), 'utf8')),
  );
  const leaf = new X509Certificate(cert!);
  if (!leaf.publicKey.equals(createPublicKey(key!)))
    throw new Error('the key is not that of the certificate');
  if (!leaf.checkIssued(new X509Certificate(bundle!)))
    throw new Error('the bundle is not that of the certificate');
  return leaf;
}

/** An application that notes in `log` the serial number of what it finds whenever it is run. */
async function applicationScript(sandbox: Sandbox, log: string): Promise<string> {
  const path = join(sandbox.dir, 'reload.mjs');
  const script = `
    import { X509Certificate } from 'node:crypto';
    import { appendFileSync, readFileSync } from 'node:fs';
    const [directory] = process.argv.slice(2);
    const { serialNumber } = new X509Certificate(readFileSync(directory + '/svid.pem'));
    appendFileSync(${JSON.stringify(log)}, serialNumber + '\\n');
  `;
  await writeFile(path, script);
  return path;
}

const linesWith = (writer: RunningProcess, text: string) =>
  writer.lines.filter((line) => line.includes(text));

describeWith({ linux: true }, 'files for applications', () => {
  it('follow rotations, and stay while the agent is killed and started again', async () => {
    const sandbox = await testSandbox();
    const { server, agent, env } = await startParts(sandbox);
    const directory = join(sandbox.dir, 'svid');
    const log = join(sandbox.dir, 'reloads');
    const script = await applicationScript(sandbox, log);
    const args = ['workload', 'x509', '--write-to', directory, '--run', process.execPath, script, directory];
    // Before there is an identity at all.
    const writer = await sandbox.start({
      name: 'workload x509 --write-to',
      command: signetBinary,
      args,
      env,
    });
    await writer.waitForLine(/no identity issued/);
    expect(existsSync(join(directory, 'svid.pem'))).toBe(false);
    await server.createEntry({ spiffeId, parent: agent.alias, selectors: [selector], x509Ttl: '5s' });

    const serials = new Set<string>();
    const reloads = async () => (await readFile(log, 'utf8')).trim().split('\n');
    const look = async () => {
      // Whatever goes wrong here goes wrong for an application.
      if (existsSync(join(directory, 'current'))) serials.add((await readIdentity(directory)).serialNumber);
      return serials.size;
    };
    await writer.until('three certificates', async () => (await look()) >= 3, {
      timeoutMs: 40_000,
      intervalMs: 5,
    });
    expect((await readIdentity(directory)).subjectAltName).toBe(`URI:${spiffeId}`);
    expect((await stat(join(directory, 'svid_key.pem'))).mode & 0o777).toBe(0o600);

    await agent.stop({ signal: 'SIGKILL' });
    await writer.waitForLine(/Workload API stream ended/);
    await writer.waitForLine(/the certificate in the files has expired/, { timeoutMs: 30_000 });
    const kept = (await readIdentity(directory)).serialNumber;
    await agent.start();
    await writer.until(
      'a new certificate',
      async () => (await readIdentity(directory)).serialNumber !== kept,
      {
        timeoutMs: 40_000,
      },
    );
    expect(linesWith(writer, 'Workload API answers again')).not.toEqual([]);

    // The last certificate is told, too, and none in between is missed for good.
    const last = async () => (await reloads()).at(-1) === (await readIdentity(directory)).serialNumber;
    await eventually('the last reload', last, { timeoutMs: 20_000 });
    expect(linesWith(writer, 'application not told')).toEqual([]);
    expect((await reloads()).length).toBeGreaterThanOrEqual(4);
    expect(writer.lines.join('\n')).not.toMatch(/PRIVATE KEY|svid_key/);

    const second = await trySignet(args, env);
    expect(second).toMatchObject({ code: 1, stderr: expect.stringMatching(/is in use by process \d+\n$/) });

    expect(await writer.stop()).toEqual({ code: 0, signal: null });
    await readIdentity(directory);
  });

  it('are there after one call with --once, also when it is killed at any time', async () => {
    const sandbox = await testSandbox();
    const { server, agent, env } = await startParts(sandbox);
    const directory = join(sandbox.dir, 'svid');
    const once = ['workload', 'x509', '--once', '--write-to', directory];
    const early = await trySignet(once, env);
    expect(early).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^signet: .*no identity issued\n$/),
    });

    const waiting = trySignet([...once, '--wait', '60s', '--combined-name', 'all.pem'], env);
    await server.createEntry({ spiffeId, parent: agent.alias, selectors: [selector], x509Ttl: '90s' });
    expect(await waiting).toMatchObject({ code: 0, stdout: '' });
    await readIdentity(directory);
    expect((await readdir(directory)).sort()).toEqual([
      '.signet',
      'all.pem',
      'bundle.pem',
      'current',
      'svid.pem',
      'svid_key.pem',
    ]);

    // Killed while it starts, connects or writes: what is there stays whole, and the next run finds its way.
    for (let round = 0; round < 6; round += 1) {
      const writer = await sandbox.start({ name: 'killed', command: signetBinary, args: once, env });
      const setsBefore = (await readdir(join(directory, '.signet'))).length;
      await eventually(
        'a moment',
        async () => {
          const sets = (await readdir(join(directory, '.signet'))).length;
          return writer.exit !== undefined || sets > setsBefore || round === 0;
        },
        { intervalMs: 1 },
      );
      await writer.stop({ signal: 'SIGKILL' });
      await readIdentity(directory);
    }
    expect(await trySignet(once, env)).toMatchObject({ code: 0 });
    await readIdentity(directory);
  });

  it('of bundles are one for each trust domain', async () => {
    const sandbox = await testSandbox();
    const { server, agent, env } = await startParts(sandbox);
    await server.createEntry({ spiffeId, parent: agent.alias, selectors: [selector] });
    const directory = join(sandbox.dir, 'bundles');
    const args = ['workload', 'bundles', '--once', '--wait', '60s', '--write-to', directory];
    expect(await trySignet(args, env)).toMatchObject({ code: 0, stdout: '' });
    expect(await readFile(join(directory, 'example.org.pem'), 'utf8')).toBe(
      `${(await server.bundle()).trim()}\n`,
    );
  });
});
