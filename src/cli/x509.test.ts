import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { parse } from 'yaml';
import { CapturedOutput } from '../testing/captured-output.ts';
import { openssl } from '../testing/openssl.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { newSigner } from '../testing/test-authority.ts';
import { newRequest, TestServer } from '../testing/test-server.ts';
import { parsePemCertificates } from '../x509/certificate.ts';
import { buildCsr } from '../x509/csr.ts';
import { encodePem } from '../x509/pem.ts';
import { exitCodes, runCommandLine } from './program.ts';

const web = 'spiffe://example.org/web';

async function start() {
  const server = await TestServer.start();
  const output = new CapturedOutput();
  const run = async (...words: readonly string[]) => {
    output.clear();
    const argv = ['node', 'signet', 'x509', 'mint', ...words, '--socket', server.adminSocket];
    const code = await runCommandLine(argv);
    const { stdout, stderr } = output;
    return { code, stdout, stderr };
  };
  const mint = async (...words: readonly string[]) => {
    const result = await run(...words);
    expect(result).toMatchObject({ code: 0 });
    return result;
  };
  return { server, run, mint };
}

/** What openssl says of the files: the public key of both, and that the certificate is the bundle's. */
function keysIn(directory: string): readonly [string, string] {
  const at = (name: string) => join(directory, name);
  openssl(['verify', '-CAfile', at('bundle.pem'), at('svid.pem')]);
  const fromKey = openssl(['pkey', '-in', at('key.pem'), '-pubout']).toString();
  return [fromKey, openssl(['x509', '-in', at('svid.pem'), '-noout', '-pubkey']).toString()];
}

describe('x509 mint with a key of its own', () => {
  it('writes certificate, key and bundle', async () => {
    const { mint } = await start();
    const directory = join(tempDir(), 'web');
    const words = ['--dns', 'web.example.org', '--dns', 'web', '--ttl', '10m', '--write-to', directory];
    const { stdout, stderr } = await mint('--spiffe-id', web, ...words);
    const [fromKey, certified] = keysIn(directory);
    expect(fromKey).toBe(certified);
    const [leaf] = parsePemCertificates(readFileSync(join(directory, 'svid.pem'), 'utf8'));
    expect(leaf).toMatchObject({ uris: [web], dnsNames: ['web.example.org', 'web'] });
    expect(leaf!.notAfterMs - leaf!.notBeforeMs).toBeCloseTo(610_000, -4);
    const modeOf = (name: string) => statSync(join(directory, name)).mode & 0o777;
    expect(['svid.pem', 'key.pem', 'bundle.pem'].map(modeOf)).toEqual([0o644, 0o600, 0o644]);
    expect(stdout).toContain(join(directory, 'key.pem'));
    expect(stdout + stderr).not.toContain('PRIVATE');
  });

  it('says where the files are, in each format', async () => {
    const { mint } = await start();
    const directory = join(tempDir(), 'web');
    const words = ['--spiffe-id', web, '--write-to', directory];
    const facts = {
      spiffeId: web,
      serial: expect.stringMatching(/^[0-9a-f]{16,}$/),
      notAfter: expect.stringMatching(/^\d{4}-.*Z$/),
      svidFile: join(directory, 'svid.pem'),
      keyFile: join(directory, 'key.pem'),
      bundleFile: join(directory, 'bundle.pem'),
    };
    expect(JSON.parse((await mint(...words, '-o', 'json')).stdout)).toEqual(facts);
    expect(parse((await mint(...words, '-o', 'yaml')).stdout)).toEqual(facts);
    expect((await mint(...words)).stdout).toMatch(/^spiffe id +spiffe:\/\/example.org\/web$/m);
    expect((await mint(...words, '--quiet')).stdout).toBe(`${web}\n`);
  });

  it('replaces what it has written before', async () => {
    const { mint } = await start();
    const directory = tempDir();
    await mint('--spiffe-id', web, '--write-to', directory);
    const [before] = keysIn(directory);
    await mint('--spiffe-id', `${web}2`, '--write-to', directory, '--key-type', 'ec-p384');
    const [after, certified] = keysIn(directory);
    expect(after).toBe(certified);
    expect(after).not.toBe(before);
  });

  it.each(['ec-p256', 'ec-p384', 'rsa-2048'])('makes a key of type %s', async (keyType) => {
    const { mint } = await start();
    const { stdout } = await mint('--spiffe-id', web, '--key-type', keyType, '-o', 'json');
    const { svid, key, bundle } = JSON.parse(stdout);
    const bits = { 'ec-p256': '256 bit', 'ec-p384': '384 bit', 'rsa-2048': '2048 bit' }[keyType];
    expect(openssl(['pkey', '-text', '-noout'], key).toString()).toContain(bits);
    expect(openssl(['pkey', '-pubout'], key)).toEqual(openssl(['x509', '-noout', '-pubkey'], svid));
    expect(parsePemCertificates(bundle)).toHaveLength(1);
  });

  it.each([
    { name: 'no place for it', words: [], says: 'the private key needs a place: --write-to DIR' },
    { name: 'only its ID asked for', words: ['-q', '-o', 'json'], says: 'the private key needs a place' },
  ])('is refused with $name', async ({ words, says }) => {
    const { run } = await start();
    const { code, stdout, stderr } = await run('--spiffe-id', web, ...words);
    expect(code).toBe(exitCodes.usage);
    expect(stdout).toBe('');
    expect(stderr).toContain(says);
  });

  it('does not print the key to a terminal', async () => {
    const { run } = await start();
    const { isTTY } = process.stdout;
    onTestFinished(() => {
      process.stdout.isTTY = isTTY;
    });
    process.stdout.isTTY = true;
    const { code, stdout, stderr } = await run('--spiffe-id', web, '-o', 'json');
    expect(code).toBe(exitCodes.usage);
    expect(stdout).toBe('');
    expect(stderr).toContain('not printed to a terminal');
  });

  it('signs nothing when the files cannot be written', async () => {
    const { run } = await start();
    const file = join(tempDir(), 'file');
    writeFileSync(file, '');
    const { code, stderr } = await run('--spiffe-id', web, '--write-to', file);
    expect(code).toBe(exitCodes.failed);
    expect(stderr).toContain(`"${file}" must be a directory`);
  });

  it('says when the CA ends sooner', async () => {
    const { mint } = await start();
    const { stderr } = await mint('--spiffe-id', web, '--ttl', '90d', '-o', 'json');
    expect(stderr).toMatch(/^signet: the certificate ends .*Z, sooner than asked for/);
  });
});

describe('x509 mint for a request', () => {
  async function requestFile(content: (csr: Buffer) => string | Buffer) {
    const signer = await newSigner();
    const file = join(tempDir(), 'web.csr');
    writeFileSync(file, content(await buildCsr({ signer, uris: [web], dnsNames: ['web'] })));
    return { file, signer };
  }

  const forms: readonly { name: string; write: (csr: Buffer) => string | Buffer }[] = [
    { name: 'DER', write: (csr) => csr },
    { name: 'PEM', write: (csr) => encodePem('CERTIFICATE REQUEST', csr) },
    { name: 'PEM of older tools', write: (csr) => encodePem('NEW CERTIFICATE REQUEST', csr) },
    { name: 'PEM with text', write: (csr) => `0 is a comment\n${encodePem('CERTIFICATE REQUEST', csr)}\n` },
  ];

  it.each(forms)('prints the certificate for its key: $name', async ({ write }) => {
    const { mint } = await start();
    const { file, signer } = await requestFile(write);
    const { stdout } = await mint('--csr', file);
    const [leaf] = parsePemCertificates(stdout);
    expect(leaf?.spki).toEqual(Buffer.from(signer.publicKey));
    expect(leaf).toMatchObject({ uris: [web], dnsNames: ['web'] });
  });

  it('writes files, and no key', async () => {
    const { mint } = await start();
    const { file } = await requestFile((csr) => csr);
    const directory = tempDir();
    const { stdout } = await mint('--csr', file, '--write-to', directory, '-o', 'json');
    expect(JSON.parse(stdout)).not.toHaveProperty('keyFile');
    expect(existsSync(join(directory, 'svid.pem'))).toBe(true);
    expect(existsSync(join(directory, 'key.pem'))).toBe(false);
  });

  it.each([
    { name: 'a missing file', content: undefined, says: /cannot read the CSR from .*web\.csr: ENOENT/ },
    { name: 'an empty file', content: '', says: /web\.csr: failed to parse CSR/ },
    { name: 'a private key', content: encodePem('PRIVATE KEY', Buffer.of(1)), says: /got "PRIVATE KEY"/ },
    {
      name: 'two requests',
      content: encodePem('CERTIFICATE REQUEST', Buffer.of(1)).repeat(2),
      says: /expected one PEM block "CERTIFICATE REQUEST", got "CERTIFICATE REQUEST", "CERTIFICATE REQUEST"/,
    },
  ])('says what is wrong with $name', async ({ content, says }) => {
    const { run } = await start();
    const file = join(tempDir(), 'web.csr');
    if (content !== undefined) writeFileSync(file, content);
    const { code, stderr } = await run('--csr', file);
    expect(code).toBe(exitCodes.failed);
    expect(stderr).toMatch(says);
  });

  it('passes on what the server has against it', async () => {
    const { run } = await start();
    const file = join(tempDir(), 'web.csr');
    writeFileSync(file, (await newRequest()).csr);
    const { code, stderr } = await run('--csr', file);
    expect(code).toBe(exitCodes.failed);
    expect(stderr).toBe('signet: CSR URI SAN is required\n');
  });
});

describe('x509 mint', () => {
  it.each([
    { name: 'neither ID nor request', words: [], says: 'say for whom: --spiffe-id ID, or --csr FILE' },
    { name: 'both', words: ['--csr', 'f', '--spiffe-id', web], says: 'leave out --spiffe-id' },
    { name: 'names for a request', words: ['--csr', 'f', '--dns', 'a'], says: 'leave out --spiffe-id' },
    { name: 'a key for a request', words: ['--csr', 'f', '--key-type', 'rsa-2048'], says: 'leave out' },
    { name: 'an unknown key type', words: ['--key-type', 'rsa-1024'], says: 'ec-p256, ec-p384, rsa-2048' },
    { name: 'no SPIFFE ID', words: ['--spiffe-id', 'web'], says: 'spiffe://' },
    { name: 'no duration', words: ['--spiffe-id', web, '--ttl', '5'], says: 'such as 90s' },
  ])('refuses $name', async ({ words, says }) => {
    const { run } = await start();
    const { code, stderr } = await run(...words);
    expect(code).toBe(exitCodes.usage);
    expect(stderr).toContain(says);
  });
});
