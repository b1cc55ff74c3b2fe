import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Bundle } from '../spiffe/bundle.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { ScriptedServer } from '../testing/scripted-server.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { newRequest, noAbort } from '../testing/test-server.ts';
import { bundleOf } from '../testing/trust-domain.ts';
import { Bootstrap } from './bootstrap.ts';
import type { AgentConfig } from './config.ts';

const trustDomain = TrustDomain.parse('example.org');
const hourMs = 3_600_000;
type Trust = Partial<Pick<AgentConfig, 'trustBundle' | 'insecureBootstrap'>>;

const newClock = () => new FakeClock(Date.now());
const newRoot = () => TestIdentity.root('example.org', { notAfterMs: Date.now() + hourMs });
const fileWith = (...roots: readonly TestIdentity[]): Trust => {
  const file = join(tempDir(), 'bundle.pem');
  writeFileSync(file, roots.map(({ certificate }) => certificate.toPem()).join(''));
  return { trustBundle: { file } };
};
const fingerprintOf = ({ certificate }: TestIdentity): Trust => ({
  trustBundle: { fingerprint: `sha256:${certificate.fingerprint}` },
});
const blind: Trust = { insecureBootstrap: true };
/** No connection comes about. */
const unproven = { code: 'unavailable' };

/** Attests at the server as far as it is believed: what the server got to hear says how far that was. */
async function attestAt(
  server: ScriptedServer,
  trust: Trust,
  options: { readonly clock: FakeClock; readonly known?: Bundle },
): Promise<void> {
  const config = { server: server.address, trustBundle: undefined, insecureBootstrap: false, ...trust };
  const contact = await new Bootstrap(trustDomain, config, options.clock).connect(options.known, noAbort);
  try {
    await contact.client.attestAgent({
      type: 'join_token',
      payload: Buffer.from('a secret token'),
      csr: (await newRequest()).csr,
      answer: () => Promise.reject(new Error('there is no challenge')),
      signal: noAbort,
    });
  } finally {
    contact.close();
  }
}

describe('a server that proves itself', () => {
  it.each([
    { name: 'by a root from a file', trust: (root: TestIdentity) => fileWith(root), calls: ['AttestAgent'] },
    {
      name: 'by one of several roots from a file',
      trust: async (root: TestIdentity) => fileWith(await newRoot(), root),
      calls: ['AttestAgent'],
    },
    {
      name: 'by the hash of its root',
      trust: (root: TestIdentity) => fingerprintOf(root),
      calls: ['GetBundle', 'AttestAgent'],
    },
    { name: 'to one who believes anybody', trust: () => blind, calls: ['AttestAgent'] },
  ])('$name gets the token', async ({ trust, calls }) => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    await attestAt(server, await trust(server.root), { clock });
    expect(server.calls).toEqual(calls);
  });

  it('gets no certificate of ours shown', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    await attestAt(server, blind, { clock });
    expect(server.caller?.kind).toBe('anonymous');
  });
});

describe('a server that does not prove itself never gets the token:', () => {
  it('when its root is not in the file', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    await expect(attestAt(server, fileWith(await newRoot()), { clock })).rejects.toMatchObject(unproven);
    expect(server.calls).toEqual([]);
  });

  it('when it has no root with the hash', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    await expect(attestAt(server, fingerprintOf(await newRoot()), { clock })).rejects.toMatchObject({
      code: 'failed-precondition',
      message: expect.stringContaining('signet bundle show'),
    });
    expect(server.calls).toEqual(['GetBundle']);
  });

  it('when it only shows the root with the hash, and is not signed by it', async () => {
    const clock = newClock();
    const honest = await newRoot();
    const server = await ScriptedServer.start({ clock });
    server.script.bundle = bundleOf('example.org', [honest.certificate, server.root.certificate]);
    await expect(attestAt(server, fingerprintOf(honest), { clock })).rejects.toMatchObject(unproven);
    expect(server.calls).toEqual(['GetBundle']);
  });

  it('when its bundle is empty', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    server.script.bundle = bundleOf('example.org', []);
    await expect(attestAt(server, fingerprintOf(server.root), { clock })).rejects.toMatchObject({
      code: 'failed-precondition',
    });
    expect(server.calls).toEqual(['GetBundle']);
  });

  const impostors: readonly { name: string; id: string }[] = [
    { name: 'an agent', id: 'spiffe://example.org/spire/agent/a' },
    { name: 'a workload', id: 'spiffe://example.org/web' },
    { name: 'almost the server', id: 'spiffe://example.org/spire/server/a' },
    { name: 'the server of another trust domain', id: 'spiffe://other.org/spire/server' },
  ];
  for (const [how, trust] of [
    ['under the right root', fileWith],
    ['under the root with the hash', fingerprintOf],
    ['to one who believes anybody', () => blind],
  ] as const) {
    it.each(impostors)(`when it is $name ${how}`, async ({ id }) => {
      const clock = newClock();
      const server = await ScriptedServer.start({ clock, id });
      await expect(attestAt(server, trust(server.root), { clock })).rejects.toMatchObject(unproven);
      expect(server.calls).toEqual([]);
    });
  }

  it('when another CA vouches for it', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock, issuer: await newRoot() });
    await expect(attestAt(server, fileWith(server.root), { clock })).rejects.toMatchObject(unproven);
    expect(server.calls).toEqual([]);
  });

  it('when its certificate has expired', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock, notAfterMs: clock.now() + 1_000 });
    await clock.advance(2_000);
    await expect(attestAt(server, fileWith(server.root), { clock })).rejects.toMatchObject(unproven);
    expect(server.calls).toEqual([]);
  });

  it('says what the server showed and what was expected', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock, id: 'spiffe://example.org/web' });
    await expect(attestAt(server, fileWith(server.root), { clock })).rejects.toThrow(
      /"spiffe:\/\/example\.org\/web".*"spiffe:\/\/example\.org\/spire\/server"/,
    );
  });
});

describe('the bundle of an earlier identity', () => {
  it('is enough, even when the configured file is gone', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    const gone: Trust = { trustBundle: { file: join(tempDir(), 'gone.pem') } };
    await attestAt(server, gone, { clock, known: server.script.bundle });
    expect(server.calls).toEqual(['AttestAgent']);
  });

  it('ends blind belief', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    const known = bundleOf('example.org', [(await newRoot()).certificate]);
    await expect(attestAt(server, blind, { clock, known })).rejects.toMatchObject(unproven);
    expect(server.calls).toEqual([]);
  });

  it.each([
    { name: 'file', trust: fileWith, calls: ['AttestAgent'] },
    { name: 'hash', trust: fingerprintOf, calls: ['GetBundle', 'AttestAgent'] },
  ])('does not shut out the roots that the configuration names by $name', async ({ trust, calls }) => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    const known = bundleOf('example.org', [(await newRoot()).certificate]);
    await attestAt(server, trust(server.root), { clock, known });
    expect(server.calls).toEqual(calls);
  });
});

describe('a file of roots', () => {
  it('that is missing is named, with the command that writes it', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    await expect(
      attestAt(server, { trustBundle: { file: '/nowhere/b.pem' } }, { clock }),
    ).rejects.toMatchObject({
      code: 'failed-precondition',
      message: expect.stringContaining('signet bundle show > /nowhere/b.pem'),
    });
  });

  it('without a root is refused and trusts nobody', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    await expect(attestAt(server, fileWith(), { clock })).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(server.calls).toEqual([]);
  });
});
