import { existsSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseConfig } from '../runtime/config-file.ts';
import { silentLogger } from '../runtime/log.ts';
import { serverConfigSchema } from '../server/config.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { chooseUpstream } from './upstream.ts';

const trustDomain = TrustDomain.parse('example.org');

function choose(upstreamAuthority: unknown, dataDir = '/unused') {
  const settings = {
    trustDomain: 'example.org',
    dataDir,
    ...(upstreamAuthority === undefined ? {} : { upstreamAuthority }),
  };
  return chooseUpstream(parseConfig(settings, serverConfigSchema, 'server.yaml'), 'server.yaml');
}

const contextIn = (dataDir: string) => ({
  trustDomain,
  dataDir,
  clock: new FakeClock(),
  log: silentLogger,
  keyNamespace: 'test',
});

describe('the upstream authority of a configuration', () => {
  it('is none when nothing is said', () => {
    expect(choose(undefined)).toBeUndefined();
  });

  it.each([
    {
      name: 'an unknown one',
      section: { vault: {} },
      says: /unknown plugin "vault"; expected one of local_root, disk/,
    },
    { name: 'one without its files', section: { disk: {} }, says: /upstreamAuthority\.disk\.certFile/ },
    {
      name: 'a root with an unknown key manager',
      section: { local_root: { keyManager: { tape: {} } } },
      says: /upstreamAuthority\.local_root\.keyManager: unknown plugin "tape"/,
    },
    {
      name: 'a root without a key manager',
      section: { local_root: {} },
      says: /upstreamAuthority\.local_root\.keyManager/,
    },
  ])('is refused when it is $name', ({ section, says }) => {
    expect(() => choose(section)).toThrow(says);
  });

  it('keeps the key of a root apart from the others, in a directory of its own', async () => {
    const dataDir = tempDir();
    const chosen = choose({ local_root: { keyManager: { disk: {} } } }, dataDir);
    expect(existsSync(join(dataDir, 'root'))).toBe(false);
    const { parts, close } = (await chosen?.create(contextIn(dataDir)))!;
    if (parts.kind !== 'local-root') throw new Error('another kind');
    await parts.keyManager.generateKey('x509-root-a', 'ec-p256');
    expect(statSync(join(dataDir, 'root')).mode & 0o777).toBe(0o700);
    expect(existsSync(join(dataDir, 'root', 'keys', 'x509-root-a.pem'))).toBe(true);
    await close();
  });

  it('reads the files of a company when it is made', async () => {
    const dataDir = tempDir();
    const root = await TestIdentity.root('corp');
    const [certFile, keyFile] = [join(dataDir, 'ca.pem'), join(dataDir, 'ca.key')];
    writeFileSync(certFile, root.certificate.toPem());
    const chosen = choose({ disk: { certFile, keyFile } })!;
    await expect(chosen.create(contextIn(dataDir))).rejects.toThrow(/there is no file/);
    writeFileSync(keyFile, root.privateKeyPem, { mode: 0o600 });
    const { parts } = await chosen.create(contextIn(dataDir));
    expect(parts).toMatchObject({ kind: 'plugin', name: 'disk' });
  });
});
