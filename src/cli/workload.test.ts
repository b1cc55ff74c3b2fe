import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { defaultStreamBudget, StreamBudget } from '../agent/api/stream-budget.ts';
import { workloadApi } from '../agent/api/workload-api.ts';
import type { HeldSvid } from '../agent/workload-view.ts';
import { CapturedOutput } from '../testing/captured-output.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { TestTrustDomain } from '../testing/trust-domain.ts';
import { startWorkloadSocket } from '../testing/workload-socket.ts';
import { exitCodes, runCommandLine } from './program.ts';

let domain: TestTrustDomain;
let web: HeldSvid;
beforeAll(async () => {
  domain = await TestTrustDomain.create();
  web = await domain.sign(testEntry({ spiffeId: 'spiffe://example.org/web', hint: 'internal' }));
});

/** Runs `signet workload …` at an agent that grants one identity. */
async function run(...words: readonly string[]) {
  const path = join(tempDir(), 'api.sock');
  const budget = new StreamBudget(defaultStreamBudget);
  const { cache } = await startWorkloadSocket({
    services: ({ attestation, cache, clock }) => [workloadApi({ attestation, cache, clock, budget })],
    path,
  });
  cache.setBundle(domain.bundle());
  cache.setEntries([web.entry]);
  cache.putSvids([web]);
  return await runAt(path, ...words);
}

async function runAt(socket: string, ...words: readonly string[]) {
  const output = new CapturedOutput();
  const code = await runCommandLine(['node', 'signet', 'workload', ...words, '--socket', socket]);
  const { stdout, stderr } = output;
  return { code, stdout, stderr };
}

describe('workload x509', () => {
  it.each([
    { words: ['-o', 'json'], stdout: /^\[\n {2}\{\n {4}"spiffeId": "spiffe:\/\/example\.org\/web"/ },
    { words: ['-o', 'yaml'], stdout: /^- spiffeId: spiffe:\/\/example\.org\/web$/m },
    { words: ['-q'], stdout: /^spiffe:\/\/example\.org\/web\n$/ },
    { words: [], stdout: /^spiffe id +spiffe:\/\/example\.org\/web$/m },
  ])('shows the identities: $words', async ({ words, stdout }) => {
    const result = await run('x509', ...words);
    expect(result).toMatchObject({ code: exitCodes.done, stderr: '' });
    expect(result.stdout).toMatch(stdout);
    expect(result.stdout).not.toContain('PRIVATE KEY');
  });

  it('writes files once; stdout stays empty', async () => {
    const dir = join(tempDir(), 'svid');
    const names = ['--cert-name', 'tls.crt', '--key-name', 'tls.key', '--bundle-name', 'ca.crt'];
    const { code, stdout } = await run('x509', '--once', '--write-to', dir, ...names);
    expect({ code, stdout }).toEqual({ code: exitCodes.done, stdout: '' });
    expect(readdirSync(dir).sort()).toEqual(['.signet', 'ca.crt', 'current', 'tls.crt', 'tls.key']);
    expect(readFileSync(join(dir, 'tls.key'), 'utf8')).toBe(web.privateKeyPem);
  });
});

describe('workload bundles', () => {
  it('shows the bundles that this process may use', async () => {
    const { code, stdout } = await run('bundles', '-o', 'json');
    expect(code).toBe(exitCodes.done);
    const { fingerprint } = domain.root.certificate;
    expect(JSON.parse(stdout)).toEqual([
      {
        trustDomain: 'example.org',
        fingerprints: [`sha256:${fingerprint}`],
        pem: domain.root.certificate.toPem(),
      },
    ]);
    expect((await run('bundles', '-q')).stdout).toBe('example.org\n');
    const table = await run('bundles');
    expect(table.stdout).toMatch(/^trust domain +example\.org\nfingerprints +sha256:[0-9a-f]{64}\n$/);
  });

  it('writes files once', async () => {
    const dir = join(tempDir(), 'bundles');
    expect(await run('bundles', '--once', '--write-to', dir)).toMatchObject({
      code: exitCodes.done,
      stdout: '',
    });
    expect(readFileSync(join(dir, 'example.org.pem'), 'utf8')).toBe(domain.root.certificate.toPem());
  });
});

describe('writing files exits', () => {
  const dir = '/nonexistent/files';

  it.each<{ name: string; words: string[]; says: string }>([
    {
      name: 'a name without a directory',
      words: ['x509', '--key-name', 'k'],
      says: '--key-name needs --write-to DIR',
    },
    {
      name: 'an option of keys',
      words: ['bundles', '--key-mode', '0600'],
      says: "unknown option '--key-mode'",
    },
    {
      name: 'a key for everybody',
      words: ['x509', '--write-to', dir, '--key-mode', '0644'],
      says: '--allow-world-readable-key',
    },
    { name: 'a stray word', words: ['x509', 'web'], says: 'unexpected "web"' },
    {
      name: 'a path as a name',
      words: ['x509', '--write-to', dir, '--cert-name', 'a/b'],
      says: 'a file name',
    },
  ])('with 2 for wrong usage: $name', async ({ words, says }) => {
    const { code, stdout, stderr } = await runAt('/nowhere', ...words);
    expect({ code, stdout }).toEqual({ code: exitCodes.usage, stdout: '' });
    expect(stderr).toMatch(/^signet: /);
    expect(stderr).toContain(says);
  });

  it('with 1 and the next step when there is no agent, and when the directory is no good', async () => {
    const noAgent = await runAt('/nowhere', 'x509', '--once', '--write-to', join(tempDir(), 'svid'));
    expect(noAgent).toMatchObject({
      code: exitCodes.failed,
      stderr: expect.stringMatching(/^signet: [^\n]*signet agent run[^\n]*\n$/),
    });
    const noDirectory = await run('x509', '--once', '--write-to', '/dev/null/svid');
    expect(noDirectory).toMatchObject({
      code: exitCodes.failed,
      stderr: expect.stringMatching(/^signet: cannot write files into "\/dev\/null\/svid"[^\n]*\n$/),
    });
  });

  it('with 3 when this process does not have the identity asked for', async () => {
    const { code, stderr } = await run(
      'x509',
      '--once',
      '--hint',
      'external',
      '--write-to',
      join(tempDir(), 'svid'),
    );
    expect(code).toBe(exitCodes.notFound);
    expect(stderr).toMatch(/it has "spiffe:\/\/example\.org\/web" \(hint "internal"\)\n$/);
  });

  it('with 1 when the command afterwards fails; the files are there', async () => {
    const dir = join(tempDir(), 'svid');
    const { code, stderr } = await run('x509', '--once', '--write-to', dir, '--run', 'false');
    expect({ code, stderr }).toEqual({
      code: exitCodes.failed,
      stderr: expect.stringMatching(/signet: command false failed: exit code 1\n$/),
    });
    expect(readdirSync(dir)).toContain('svid.pem');
  });
});
