import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { bundleOf } from '../testing/trust-domain.ts';
import { IdentityFile, type StoredIdentity } from './identity-file.ts';

const trustDomain = TrustDomain.parse('example.org');
let identity: StoredIdentity;
beforeAll(async () => {
  const root = await TestIdentity.root('example.org');
  const other = await TestIdentity.root('example.org');
  const intermediate = await root.intermediate();
  const leaf = await intermediate.issue('spiffe://example.org/spire/agent/a');
  identity = {
    keyId: 'agent-svid-b',
    chain: [leaf.certificate, intermediate.certificate],
    bundle: bundleOf('example.org', [root.certificate, other.certificate], 7),
    reattestable: true,
  };
});

const fileIn = (dataDir: string) => new IdentityFile(dataDir, trustDomain);
const prints = ({ chain }: StoredIdentity) => chain.map((certificate) => certificate.fingerprint);

/** A file with this identity, changed as JSON. */
async function written(change: (json: Record<string, unknown>) => unknown = (json) => json) {
  const file = fileIn(tempDir());
  await file.write(identity);
  const json = JSON.parse(readFileSync(file.path, 'utf8')) as Record<string, unknown>;
  writeFileSync(file.path, JSON.stringify(change(json)));
  return file;
}

describe('the identity file', () => {
  it('gives back what was written', async () => {
    const dataDir = tempDir();
    await fileIn(dataDir).write(identity);
    const read = await fileIn(dataDir).read();
    expect(read).toMatchObject({ keyId: 'agent-svid-b', reattestable: true });
    expect(prints(read!)).toEqual(prints(identity));
    expect(read!.bundle.equals(identity.bundle)).toBe(true);
    expect(read!.bundle.sequence).toBe(7n);
  });

  it('is nothing when there is none', async () => {
    expect(await fileIn(tempDir()).read()).toBeUndefined();
  });

  it('keeps the bundle of an agent that was banned, and nothing of its identity', async () => {
    const file = fileIn(tempDir());
    await file.write(identity);
    await file.write({ ...identity, chain: [] });
    expect(readFileSync(file.path, 'utf8')).not.toContain('BEGIN CERTIFICATE');
    const read = await file.read();
    expect(read?.chain).toEqual([]);
    expect(read?.bundle.equals(identity.bundle)).toBe(true);
  });

  it('holds no private key and is for its owner only', async () => {
    const file = fileIn(tempDir());
    await file.write(identity);
    expect(statSync(file.path).mode & 0o777).toBe(0o600);
    expect(readFileSync(file.path, 'utf8')).not.toContain('PRIVATE KEY');
  });

  it('is replaced as a whole, with nothing left beside it', async () => {
    const dataDir = tempDir();
    await fileIn(dataDir).write(identity);
    const before = statSync(join(dataDir, 'agent.json')).ino;
    await fileIn(dataDir).write({ ...identity, keyId: 'agent-svid-a' });
    expect(statSync(join(dataDir, 'agent.json')).ino).not.toBe(before);
    expect(readdirSync(dataDir)).toEqual(['agent.json']);
    expect((await fileIn(dataDir).read())?.keyId).toBe('agent-svid-a');
  });

  it('leaves nothing behind when it cannot be written', async () => {
    const dataDir = tempDir();
    // Nothing can be renamed over a directory.
    mkdirSync(join(dataDir, 'agent.json'));
    await expect(fileIn(dataDir).write(identity)).rejects.toMatchObject({ code: 'failed-precondition' });
    expect(readdirSync(dataDir)).toEqual(['agent.json']);
  });

  it('is refused when others can read it, with the command that helps', async () => {
    const file = await written();
    chmodSync(file.path, 0o640);
    const refusal = { code: 'failed-precondition', message: expect.stringContaining('chmod 600') };
    await expect(file.read()).rejects.toMatchObject(refusal);
  });

  const damages: readonly {
    name: string;
    change: (json: Record<string, unknown>) => unknown;
    says?: string;
  }[] = [
    { name: 'is of a later version', change: (json) => ({ ...json, version: 2 }), says: 'version' },
    {
      name: 'belongs to another trust domain',
      change: (json) => ({ ...json, trustDomain: 'other.org' }),
      says: 'other.org',
    },
    { name: 'lacks a field', change: ({ keyId: _, ...json }) => json, says: 'keyId' },
    { name: 'has a field too many', change: (json) => ({ ...json, mode: 'x' }), says: 'mode' },
    { name: 'names an unknown key', change: (json) => ({ ...json, keyId: '../x' }), says: 'keyId' },
    { name: 'has no certificate in its chain', change: (json) => ({ ...json, certificateChain: ' ' }) },
    { name: 'has a broken certificate', change: (json) => ({ ...json, certificateChain: 'x' }) },
    { name: 'has a broken bundle', change: (json) => ({ ...json, bundle: '{"keys":1}' }) },
    { name: 'is no object', change: () => [] },
  ];
  it.each(damages)('is not understood when it $name', async ({ change, says = '' }) => {
    const file = await written(change);
    const refusal = { code: 'invalid-argument', message: expect.stringContaining(says) };
    await expect(file.read()).rejects.toMatchObject(refusal);
  });

  it.each(['', '{"version":1', '\0\0\0', '{"version":1,"version":1}'])(
    'is not understood when it contains %j',
    async (text) => {
      const file = fileIn(tempDir());
      writeFileSync(file.path, text, { mode: 0o600 });
      await expect(file.read()).rejects.toMatchObject({ code: 'invalid-argument' });
    },
  );

  it('is set aside as a private copy', async () => {
    const file = fileIn(tempDir());
    writeFileSync(file.path, 'half a fi', { mode: 0o600 });
    const kept = await file.setAside();
    expect(basename(kept)).toBe('agent.json.unusable');
    expect(readFileSync(kept, 'utf8')).toBe('half a fi');
    expect(statSync(kept).mode & 0o777).toBe(0o600);
  });

  it('is not set aside when there is none', async () => {
    const kept = await fileIn(tempDir()).setAside();
    expect(existsSync(kept)).toBe(false);
  });
});
