import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { Bundle } from '../spiffe/bundle.ts';
import { bundleToSpiffeJwks, parseSpiffeJwks } from '../spiffe/bundle-document.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { CapturedOutput } from '../testing/captured-output.ts';
import { jwtKey } from '../testing/jwt-keys.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { TestAuthority } from '../testing/test-authority.ts';
import { noAbort, TestServer } from '../testing/test-server.ts';
import { parsePemCertificates } from '../x509/certificate.ts';
import { runCommandLine } from './program.ts';

const other = TrustDomain.parse('other.org');
let root: TestAuthority;
let bundle: Bundle;

beforeAll(async () => {
  root = await TestAuthority.root({ uris: ['spiffe://other.org'] });
  bundle = new Bundle({
    trustDomain: other,
    x509Authorities: [{ certificate: root.certificate, tainted: false }],
    jwtAuthorities: [jwtKey('k')],
    sequence: 2n ** 64n - 1n,
    refreshHintSeconds: 300,
  });
});

function fileWith(content: string): string {
  const path = join(tempDir(), 'bundle');
  writeFileSync(path, content);
  return path;
}

/** A server, and the command line of its administrator. */
async function start() {
  const server = await TestServer.start();
  const output = new CapturedOutput();
  const run = async (...words: readonly string[]) => {
    output.clear();
    const code = await runCommandLine(['node', 'signet', 'bundle', ...words, '--socket', server.adminSocket]);
    return { code, stdout: output.stdout, stderr: output.stderr };
  };
  const done = async (...words: readonly string[]) => {
    const { stdout, ...ended } = await run(...words);
    expect(ended).toEqual({ code: 0, stderr: '' });
    return stdout;
  };
  const json = async (...words: readonly string[]) => JSON.parse(await done(...words, '-o', 'json'));
  const setOther = () =>
    done('set', '--trust-domain', 'other.org', '--file', fileWith(bundleToSpiffeJwks(bundle)));
  return { server, run, done, json, setOther };
}

describe('bundle set', () => {
  it('stores a SPIFFE bundle document with all that it says', async () => {
    const { server, setOther } = await start();
    expect(await setOther()).toContain('other.org');
    const stored = await server.admin.bundles.getFederated(other, { signal: noAbort });
    expect(stored.equals(bundle)).toBe(true);
    expect(stored.sequence).toBe(bundle.sequence);
  });

  it('stores certificates as PEM, and replaces what was there', async () => {
    const { server, setOther, done } = await start();
    await setOther();
    const words = ['--trust-domain', 'spiffe://other.org', '--file', fileWith(bundle.toPem())];
    expect(await done('set', ...words, '-q')).toBe('other.org\n');
    const stored = await server.admin.bundles.getFederated(other, { signal: noAbort });
    expect([stored.toPem(), stored.jwtAuthorities]).toEqual([bundle.toPem(), []]);
  });

  it.each<{ name: string; words: () => string[]; code: number; says: RegExp }>([
    {
      name: 'no file',
      words: () => ['--file', '/nowhere'],
      code: 1,
      says: /cannot read the bundle from \/nowhere: ENOENT/,
    },
    { name: 'an empty file', words: () => ['--file', fileWith('')], code: 1, says: /as pem: .*CERTIFICATE/ },
    {
      name: 'a file that is half a document',
      words: () => ['--file', fileWith('{"keys":')],
      code: 1,
      says: /as spiffe: bundle document of trust domain "other.org": must be JSON/,
    },
    {
      name: 'another format than it says',
      words: () => ['--file', fileWith(bundle.toPem()), '--format', 'spiffe'],
      code: 1,
      says: /must be JSON/,
    },
    {
      name: 'our own trust domain',
      words: () => ['--trust-domain', 'example.org', '--file', fileWith(bundle.toPem())],
      code: 1,
      says: /own trust domain/,
    },
    {
      name: 'a trust domain that is none',
      words: () => ['--trust-domain', 'A B', '--file', '/x'],
      code: 2,
      says: /trust domain/,
    },
    { name: 'no file named', words: () => [], code: 2, says: /--file/ },
  ])('refuses $name', async ({ words, code, says }) => {
    const { run, json } = await start();
    const refusal = await run('set', '--trust-domain', 'other.org', ...words());
    expect(refusal).toMatchObject({ code, stdout: '', stderr: expect.stringMatching(says) });
    expect(await json('count')).toEqual({ count: 1 });
  });

  it('warns of what peers will not take, and stores it', async () => {
    const { run, json } = await start();
    const intermediate = await root.authority({ uris: ['spiffe://third.org'] });
    const file = fileWith(intermediate.certificate.toPem());
    const { code, stderr } = await run('set', '--trust-domain', 'other.org', '--file', file);
    expect(code).toBe(0);
    expect(stderr).toMatch(/^signet: warning: bundle of "other.org": 1 of 1 X.509 authorities/);
    expect(stderr).toContain('not self-signed');
    expect(stderr).toContain('another trust domain than "other.org"');
    expect(await json('count')).toEqual({ count: 2 });
  });
});

describe('bundle show', () => {
  it.each(['spiffe', 'pem'])('prints a stored bundle as %s that reads back', async (format) => {
    const { setOther, done } = await start();
    await setOther();
    const text = await done('show', 'other.org', '--format', format);
    if (format === 'spiffe') expect(parseSpiffeJwks(text, other).equals(bundle)).toBe(true);
    else expect(parsePemCertificates(text).map(({ der }) => der)).toEqual([root.certificate.der]);
  });

  it('prints ours by its name or without one', async () => {
    const { done } = await start();
    expect(await done('show', 'example.org')).toBe(await done('show'));
  });

  it('has in JSON all there is, large numbers exactly', async () => {
    const { setOther, json } = await start();
    await setOther();
    expect(await json('show', 'other.org')).toEqual({
      trustDomain: 'other.org',
      x509Authorities: 1,
      jwtAuthorities: 1,
      sequence: '18446744073709551615',
      refreshHint: '300s',
      expires: new Date(root.certificate.notAfterMs).toISOString(),
      fingerprints: [`sha256:${root.certificate.fingerprint}`],
      jwtKeyIds: ['k'],
      pem: bundle.toPem(),
    });
    expect(await json('show')).toMatchObject({ trustDomain: 'example.org', sequence: 1, jwtKeyIds: [] });
  });

  it('deletes those that are there, and says which are not', async () => {
    const { run, setOther } = await start();
    await setOther();
    const { code, stdout, stderr } = await run('delete', 'never.org', 'other.org', 'other.org', 'gone.org');
    expect({ code, stdout }).toEqual({ code: 3, stdout: 'deleted other.org\n' });
    expect(stderr).toMatch(/^signet: bundle of "never.org": .*\nsignet: bundle of "gone.org": /);
  });

  it('exits with 3 when there is none, and with 2 for what is no trust domain', async () => {
    const { run } = await start();
    const missing = await run('show', 'other.org');
    expect(missing).toMatchObject({ code: 3, stdout: '', stderr: expect.stringContaining('bundle list') });
    expect(await run('show', 'A B')).toMatchObject({ code: 2 });
  });
});

describe('bundle list and count', () => {
  it('show ours first, then the others', async () => {
    const { setOther, done, json } = await start();
    await setOther();
    expect(await json('list')).toMatchObject([
      { trustDomain: 'example.org', x509Authorities: 1, jwtAuthorities: 0 },
      { trustDomain: 'other.org', x509Authorities: 1, jwtAuthorities: 1 },
    ]);
    expect(await done('list', '-q')).toBe('example.org\nother.org\n');
    expect((await done('list')).split('\n')[0]).toMatch(/^TRUST DOMAIN +X509 AUTHORITIES +JWT AUTHORITIES/);
    expect(await done('count')).toBe('2\n');
    expect(await json('count')).toEqual({ count: 2 });
  });
});

describe('bundle delete', () => {
  async function federated() {
    const parts = await start();
    await parts.setOther();
    const words = ['--spiffe-id', 'spiffe://example.org/web', '--parent', 'spiffe://example.org/node'];
    const entry = [
      'entry',
      'create',
      '--id',
      'web',
      ...words,
      '--selector',
      'unix:uid:1',
      '--federates-with',
      'other.org',
    ];
    expect(await runCommandLine(['node', 'signet', ...entry, '--socket', parts.server.adminSocket])).toBe(0);
    const entries = async () => {
      const all = await parts.server.store.entries.list();
      return all.map(({ id, federatesWith }) => [id, federatesWith.map(String).join()]);
    };
    return { ...parts, entries };
  }

  it('says which entries are in its way', async () => {
    const { run, entries } = await federated();
    const { code, stderr } = await run('delete', 'other.org');
    expect(code).toBe(1);
    expect(stderr).toContain('bundle of "other.org"');
    expect(stderr).toContain('"web" (spiffe://example.org/web)');
    expect(stderr).toContain('dissociate');
    expect(await entries()).toEqual([['web', 'other.org']]);
  });

  it.each([
    { mode: 'dissociate', left: [['web', '']] },
    { mode: 'delete', left: [] },
  ])('with --mode $mode does that to entries', async ({ mode, left }) => {
    const { done, entries, json } = await federated();
    expect(await done('delete', 'other.org', '--mode', mode)).toBe('deleted other.org\n');
    expect(await entries()).toEqual(left);
    expect(await json('count')).toEqual({ count: 1 });
  });

  it('exits with 3 when there is none, and with 2 for another mode', async () => {
    const { run } = await start();
    expect(await run('delete', 'other.org')).toMatchObject({ code: 3 });
    expect(await run('delete', 'other.org', '--mode', 'maybe')).toMatchObject({ code: 2 });
  });
});
