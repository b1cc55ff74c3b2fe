import { X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { stringify } from 'yaml';
import { describeWithSoftHsm } from '../src/testing/soft-hsm.ts';
import { eventually } from './support/eventually.ts';
import { hsmIn, keyManagerOf, moduleProcessOf, takeTokenAway } from './support/hsm.ts';
import { SignetServer, trySignet } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

const health = (server: SignetServer) => trySignet(['health', '--socket', server.adminSocket]);
const webOf = async (server: SignetServer) =>
  new X509Certificate((await server.mint('spiffe://example.org/web', { ttlSeconds: 600 })).cert);

describeWithSoftHsm('a server with its keys in an HSM', () => {
  it('checks the token before it is used', async () => {
    const sandbox = await testSandbox();
    const hsm = await hsmIn(sandbox);
    const path = join(sandbox.dir, 'server.yaml');
    const dataDir = join(sandbox.dir, 'data');
    await writeFile(path, stringify({ trustDomain: 'example.org', dataDir, ...keyManagerOf(hsm) }));
    const { code, stdout, stderr } = await trySignet(['server', 'check', '--config', path]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(
      /^key manager\s+pkcs11: token "ca" \(SoftHSM project SoftHSM v2, serial [0-9a-f]{16}\)$/m,
    );
    expect(stdout).toMatch(/^key types\s+ec-p256, ec-p384, rsa-2048, rsa-3072, rsa-4096$/m);
    expect(stdout).toMatch(/^signatures\s+\d+ a second with ec-p256$/m);
    expect(existsSync(dataDir)).toBe(false);

    await writeFile(hsm.pinFile, 'a-wrong-one');
    const wrong = await trySignet(['server', 'check', '--config', path]);
    expect(wrong).toMatchObject({ code: 1, stdout: '' });
    expect(wrong.stderr).toMatch(/^signet: token "ca": CKR_PIN_INCORRECT in C_Login; .* not tried again/);
    expect(wrong.stderr).not.toContain('a-wrong-one');
    expect(await trySignet(['server', 'check', '--offline', '--config', path])).toMatchObject({ code: 0 });
  });

  it('checks the token of a root of its own too', async () => {
    const sandbox = await testSandbox();
    const hsm = await hsmIn(sandbox);
    const path = join(sandbox.dir, 'server.yaml');
    const config = {
      trustDomain: 'example.org',
      dataDir: join(sandbox.dir, 'data'),
      keyManager: { memory: {} },
      upstreamAuthority: { local_root: { ...keyManagerOf(hsm), keyType: 'ec-p384' } },
    };
    await writeFile(path, stringify(config));
    const { code, stdout } = await trySignet(['server', 'check', '--config', path]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^key manager\s+memory: keys end with the process$/m);
    expect(stdout).toMatch(/^root key manager\s+pkcs11: token "ca" \(SoftHSM/m);
    expect(stdout).toMatch(/^root signatures\s+\d+ a second with ec-p384$/m);
  });

  it('has the same root after a restart, and shows how the token is', async () => {
    const sandbox = await testSandbox();
    const hsm = await hsmIn(sandbox);
    const server = await SignetServer.start(sandbox, { config: keyManagerOf(hsm) });
    const root = await server.bundle();
    expect((await webOf(server)).verify(new X509Certificate(root).publicKey)).toBe(true);
    const { stdout } = await health(server);
    expect(stdout).toMatch(/key manager\s+ok\s+token "ca" \(serial [0-9a-f]+\), 1 keys; \d+ signatures, /);
    expect(await server.stop()).toMatchObject({ code: 0 });
    await server.start();
    expect(await server.bundle()).toBe(root);
    expect((await webOf(server)).verify(new X509Certificate(root).publicKey)).toBe(true);
    expect(existsSync(join(server.dataDir, 'keys'))).toBe(false);
  });

  it('stays up while the token is away, and signs again by itself', async () => {
    const sandbox = await testSandbox();
    const hsm = await hsmIn(sandbox);
    const server = await SignetServer.start(sandbox, { config: keyManagerOf(hsm) });
    const putBack = takeTokenAway(hsm, server);
    await eventually('degraded', async () => {
      const { code, stdout } = await health(server);
      return code === 4 && /key manager\s+degraded\s+nothing can be signed: token "ca"/.test(stdout);
    });
    expect(await server.bundle()).toContain('BEGIN CERTIFICATE');
    putBack();
    const back = performance.now();
    await eventually('signed', () => webOf(server), { timeoutMs: 20_000 });
    expect(performance.now() - back).toBeLessThan(5_000);
    await server.waitUntilHealthy();
  });

  it('takes the process that runs the module with it, however it ends', async () => {
    const sandbox = await testSandbox();
    const server = await SignetServer.start(sandbox, { config: keyManagerOf(await hsmIn(sandbox)) });
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      const worker = moduleProcessOf(server);
      await server.stop({ signal });
      await eventually('gone', () => !existsSync(`/proc/${worker}`));
      if (signal === 'SIGTERM') await server.start();
    }
  });
});
