import { describe, expect, it, onTestFinished } from 'vitest';
import { silentLogger } from '../runtime/log.ts';
import { Bundle } from '../spiffe/bundle.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { selfSignedSlot } from '../testing/signing-slot.ts';
import { openTestStore } from '../testing/test-store.ts';
import { parsePemCertificates } from '../x509/certificate.ts';
import type { Signer } from '../x509/signature.ts';
import { Authority, type SigningSlot } from './authority/authority.ts';
import { BundleKeeper } from './bundles/bundle-keeper.ts';
import { ServerIdentity } from './server-identity.ts';

const trustDomain = TrustDomain.parse('example.org');
const minuteMs = 60_000;
const hourMs = 60 * minuteMs;

/** A running identity with certificates of an hour; `sign` stands before the key of the first root. */
async function startIdentity(sign?: (signer: Signer, data: Uint8Array) => Promise<Uint8Array>) {
  const clock = new FakeClock();
  const store = await openTestStore({ clock });
  const bundles = await BundleKeeper.load({ trustDomain, store: store.bundles, log: silentLogger });
  const authority = new Authority({ trustDomain, clock, log: silentLogger });
  const newRoot = async (): Promise<SigningSlot> => {
    const slot = await selfSignedSlot({ trustDomain, clock });
    await bundles.ensure(slot.certificate);
    return slot;
  };
  const first = await newRoot();
  const { signer } = first;
  authority.activate(
    sign === undefined ? first : { ...first, signer: { ...signer, sign: (data) => sign(signer, data) } },
  );
  const identity = new ServerIdentity(
    { authority, bundles, clock, log: silentLogger },
    { keyType: 'ec-p256', ttlMs: hourMs },
  );
  const stop = new AbortController();
  const ready = Promise.withResolvers<void>();
  const running = identity.run(stop.signal, ready.resolve);
  running.catch(ready.reject);
  onTestFinished(async () => {
    stop.abort();
    await running.catch(() => undefined);
  });
  const leaf = () => parsePemCertificates(identity.tls.value!.certificateChainPem)[0]!;
  return { clock, bundles, authority, identity, newRoot, first, leaf, ready: ready.promise };
}

describe('the identity of the server', () => {
  it('is ready with a certificate for the ID of the server, under the active root', async () => {
    const { ready, leaf, first, identity, clock } = await startIdentity();
    await ready;
    expect(leaf().uris).toEqual(['spiffe://example.org/spire/server']);
    expect(leaf().verifySignedBy(first.certificate)).toBe(true);
    expect(leaf().notAfterMs).toBe(clock.now() + hourMs);
    expect(identity.tls.value?.clientCaPem).toBe(first.certificate.toPem());
  });

  it('fails to start when nothing can be signed', async () => {
    const broken = startIdentity(() => Promise.reject(new Error('the HSM is away')));
    await expect(broken.then(({ ready }) => ready)).rejects.toThrow('the HSM is away');
  });

  it('is renewed at half of its life, with a new key', async () => {
    const { ready, leaf, identity, clock } = await startIdentity();
    await ready;
    const before = { serial: leaf().serialHex, key: identity.tls.value?.privateKeyPem };
    await clock.advance(30 * minuteMs - 1);
    expect(leaf().serialHex).toBe(before.serial);
    await clock.advance(10_001);
    await expect.poll(() => leaf().serialHex).not.toBe(before.serial);
    expect(identity.tls.value?.privateKeyPem).not.toBe(before.key);
  });

  it('is renewed in time after a sleep of the machine, in which timers stand still', async () => {
    const { ready, leaf, clock } = await startIdentity();
    await ready;
    const before = leaf().serialHex;
    await clock.untilSleepers(1);
    clock.stepWallClock(59 * minuteMs);
    await clock.advance(10_000);
    await expect.poll(() => leaf().serialHex).not.toBe(before);
  });

  it('stays under the root that everybody holds while that outlives it, and then is under the new one', async () => {
    const { ready, leaf, clock, authority, first, newRoot } = await startIdentity();
    await ready;
    const before = leaf().serialHex;
    await clock.advance(23 * hourMs - 2);
    const next = await newRoot();
    authority.activate(next);
    await expect.poll(() => leaf().serialHex).not.toBe(before);
    expect(leaf().verifySignedBy(first.certificate)).toBe(true);
    await clock.untilSleepers(1);
    await clock.advance(hourMs / 2);
    await expect.poll(() => leaf().verifySignedBy(next.certificate)).toBe(true);
  });

  it('does not miss a root that takes over while a certificate is being made', async () => {
    const reached = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    const { ready, leaf, clock, authority, newRoot } = await startIdentity(async (signer, data) => {
      reached.resolve();
      await gate.promise;
      return signer.sign(data);
    });
    await reached.promise;
    // So late that the first root does not outlive another certificate.
    clock.stepWallClock(23 * hourMs + 1);
    const next = await newRoot();
    authority.activate(next);
    gate.resolve();
    await ready;
    await expect.poll(() => leaf().verifySignedBy(next.certificate)).toBe(true);
  });

  it('is tried again soon when it cannot be renewed, and stays what it was meanwhile', async () => {
    let signatures = 0;
    const { ready, leaf, clock } = await startIdentity((signer, data) => {
      signatures += 1;
      return signatures === 2 ? Promise.reject(new Error('the HSM is away')) : signer.sign(data);
    });
    await ready;
    const before = leaf().serialHex;
    await clock.advance(30 * minuteMs);
    await expect.poll(() => signatures).toBe(2);
    expect(leaf().serialHex).toBe(before);
    await clock.untilSleepers(1);
    await clock.advance(10_000);
    await expect.poll(() => leaf().serialHex).not.toBe(before);
  });

  it('leaves the root before as soon as that is distrusted', async () => {
    const { ready, leaf, authority, first, newRoot } = await startIdentity();
    await ready;
    const next = await newRoot();
    authority.activate(next);
    await expect.poll(() => leaf().verifySignedBy(first.certificate)).toBe(true);
    authority.distrust([first.id]);
    await expect.poll(() => leaf().verifySignedBy(next.certificate)).toBe(true);
  });

  it('accepts clients of every root in the bundle', async () => {
    const { ready, identity, first, newRoot, bundles } = await startIdentity();
    await ready;
    const certificate = identity.tls.value?.certificateChainPem;
    const next = await newRoot();
    expect(identity.tls.value).toMatchObject({
      clientCaPem: first.certificate.toPem() + next.certificate.toPem(),
      certificateChainPem: certificate,
    });
    const { sequence } = bundles.own.value;
    const x509Authorities = [{ certificate: next.certificate, tainted: false }];
    bundles.adopt(
      new Bundle({ trustDomain, x509Authorities, sequence: sequence + 1n, refreshHintSeconds: 0 }),
    );
    expect(identity.tls.value?.clientCaPem).toBe(next.certificate.toPem());
  });
});
