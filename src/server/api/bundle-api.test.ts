import { status } from '@grpc/grpc-js';
import { describe, expect, it } from 'vitest';
import {
  AppendBundleRequest,
  BundleService,
  type GetBundleRequest,
} from '../../gen/spire/api/server/bundle/v1/bundle.ts';
import { BundleMask } from '../../gen/spire/api/types/bundle.ts';
import { callUnary } from '../../rpc/grpc-client.ts';
import { fromServiceError } from '../../rpc/status.ts';
import { AppError } from '../../runtime/error.ts';
import { silentLogger } from '../../runtime/log.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { TestIdentity } from '../../testing/certificates.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { jwtKey } from '../../testing/jwt-keys.ts';
import { TestServer } from '../../testing/test-server.ts';
import { openTestStore } from '../../testing/test-store.ts';
import { Certificate } from '../../x509/certificate.ts';
import { BundleKeeper } from '../bundles/bundle-keeper.ts';
import { FederatedBundles } from '../bundles/federated-bundles.ts';
import { Entries } from '../registration/entries.ts';
import { EntryIndex } from '../registration/entry-index.ts';
import { Access } from './access.ts';
import { bundleApi } from './bundle-api.ts';

const trustDomain = TrustDomain.parse('example.org');
const agentId = SpiffeId.of(trustDomain, '/spire/agent/test');
const nothing = BundleMask.decode(new Uint8Array(0));
const all: GetBundleRequest = { outputMask: undefined };

describe('GetBundle', () => {
  it.each(['nobody', 'an administrator', 'an agent'])('gives our roots to %s', async (who) => {
    const server = await TestServer.start();
    const channels = {
      nobody: () => server.connect(),
      'an administrator': () => server.adminChannel,
      'an agent': async () => (await server.join()).channel,
    };
    const channel = await channels[who as keyof typeof channels]();
    const bundle = await callUnary(channel, BundleService.getBundle, all);
    expect(bundle).toMatchObject({ trustDomain: 'example.org', sequenceNumber: 1n, refreshHint: 0n });
    const [root, ...others] = bundle.x509Authorities.map(({ asn1 }) => Certificate.parse(asn1));
    expect(others).toEqual([]);
    expect(root?.uris).toEqual(['spiffe://example.org']);
    const stored = await server.store.bundles.find(trustDomain);
    expect(stored?.certificates()[0]?.der).toEqual(root?.der);
  });

  it.each([
    { name: 'nothing', mask: {}, roots: 0, sequenceNumber: 0n },
    { name: 'the roots', mask: { x509Authorities: true }, roots: 1, sequenceNumber: 0n },
    { name: 'the sequence', mask: { sequenceNumber: true }, roots: 0, sequenceNumber: 1n },
  ])('leaves $name when the mask says so, and the trust domain', async ({ mask, roots, sequenceNumber }) => {
    const server = await TestServer.start();
    const request = { outputMask: { ...nothing, ...mask } };
    const bundle = await callUnary(server.adminChannel, BundleService.getBundle, request);
    expect(bundle).toMatchObject({ trustDomain: 'example.org', sequenceNumber });
    expect(bundle.x509Authorities).toHaveLength(roots);
  });
});

describe('AppendBundle', () => {
  const append = (server: TestServer, request: Partial<AppendBundleRequest>) =>
    callUnary(server.adminChannel, BundleService.appendBundle, {
      ...AppendBundleRequest.decode(new Uint8Array(0)),
      ...request,
    });
  const jwtAuthority = (keyId: string) => {
    const { publicKey } = jwtKey(keyId);
    return { keyId, publicKey: Buffer.from(publicKey), expiresAt: 1_900_000_000n, tainted: false };
  };
  const asn1Of = ({ x509Authorities }: { x509Authorities: { asn1: Buffer }[] }) =>
    x509Authorities.map(({ asn1 }) => asn1.toString('hex'));

  it('adds authorities behind ours, once, and stores them', async () => {
    const server = await TestServer.start();
    const before = await callUnary(server.adminChannel, BundleService.getBundle, all);
    const roots = [await TestIdentity.root('a'), await TestIdentity.root('b')];
    const x509Authorities = [
      { asn1: Buffer.concat(roots.map(({ certificate }) => certificate.der)), tainted: false },
    ];
    const request = { x509Authorities, jwtAuthorities: [jwtAuthority('k')] };
    const after = await append(server, request);
    expect(after.sequenceNumber).toBe(before.sequenceNumber + 1n);
    const added = roots.map(({ certificate }) => certificate.der.toString('hex'));
    expect(asn1Of(after)).toEqual([...asn1Of(before), ...added]);
    expect(after.jwtAuthorities).toEqual(request.jwtAuthorities);
    expect(await append(server, request)).toEqual(after);
    expect(await callUnary(await server.connect(), BundleService.getBundle, all)).toEqual(after);
    const stored = await server.store.bundles.find(trustDomain);
    expect(stored?.jwtAuthorities.map(({ keyId }) => keyId)).toEqual(['k']);
    expect(stored?.certificates()).toHaveLength(3);
  });

  it('answers with what the mask names', async () => {
    const server = await TestServer.start();
    const outputMask = { ...nothing, jwtAuthorities: true };
    const answer = await append(server, { jwtAuthorities: [jwtAuthority('k')], outputMask });
    expect(answer).toMatchObject({ x509Authorities: [], sequenceNumber: 0n });
    expect(answer.jwtAuthorities).toHaveLength(1);
  });

  it.each<{ name: string; request: Partial<AppendBundleRequest>; code: number; says: RegExp }>([
    { name: 'nothing', request: {}, code: status.INVALID_ARGUMENT, says: /^no authorities to append$/ },
    {
      name: 'a certificate that is none',
      request: { x509Authorities: [{ asn1: Buffer.from('malformed'), tainted: false }] },
      code: status.INVALID_ARGUMENT,
      says: /^failed to convert X.509 authority: /,
    },
    {
      name: 'a key that is none',
      request: { jwtAuthorities: [{ ...jwtAuthority('k'), publicKey: Buffer.from('malformed') }] },
      code: status.INVALID_ARGUMENT,
      says: /^failed to convert JWT authority: /,
    },
    {
      name: 'a key without id',
      request: { jwtAuthorities: [jwtAuthority('')] },
      code: status.INVALID_ARGUMENT,
      says: /^failed to convert JWT authority: missing key ID$/,
    },
    {
      name: 'two keys with one id',
      request: { jwtAuthorities: [jwtAuthority('k'), jwtAuthority('k')] },
      code: status.INVALID_ARGUMENT,
      says: /"k"/,
    },
    {
      name: 'WIT authorities',
      request: { witAuthorities: [jwtAuthority('k')] },
      code: status.UNIMPLEMENTED,
      says: /WIT/,
    },
  ])('refuses $name and changes nothing', async ({ request, code, says }) => {
    const server = await TestServer.start();
    const before = await callUnary(server.adminChannel, BundleService.getBundle, all);
    await expect(append(server, request)).rejects.toMatchObject({
      code: fromServiceError({ code, details: '' }).code,
      message: expect.stringMatching(says),
    });
    expect(await callUnary(server.adminChannel, BundleService.getBundle, all)).toEqual(before);
  });

  it('loses nothing to a new root of ours', async () => {
    const server = await TestServer.start();
    await append(server, { jwtAuthorities: [jwtAuthority('k')] });
    const root = (await TestIdentity.root('example.org')).certificate;
    await server.store.bundles.update(trustDomain, (own) => own!.withAuthority(root));
    expect((await server.store.bundles.find(trustDomain))?.jwtAuthorities).toHaveLength(1);
  });
});

describe('who holds the bundle', () => {
  /** The method on its own, with what the server notes of agents. */
  async function getBundle() {
    const clock = new FakeClock();
    const store = await openTestStore({ clock });
    const root = await TestIdentity.root('example.org');
    const bundles = await BundleKeeper.load({ trustDomain, store: store.bundles, log: silentLogger });
    await bundles.ensure(root.certificate);
    const federated = await FederatedBundles.load({ trustDomain, store: store.bundles, log: silentLogger });
    const index = new EntryIndex(trustDomain);
    const entries = new Entries({ trustDomain, store: store.entries, index });
    const deps = { trustDomain, agents: store.agents, index, bundles, clock };
    const access = new Access({ ...deps, adminIds: [] });
    const { certificate } = await root.issue(agentId.toString());
    await store.agents.recordAttestation({
      id: agentId,
      attestationType: 'test',
      serial: certificate.serialDecimal,
      expiresAt: 0,
      selectors: [],
      canReattest: false,
    });
    const handler = bundleApi({ ...deps, federated, entries, access }).handlers.get('getBundle');
    const stranger = await root.issue(agentId.toString());
    const call = async (request: GetBundleRequest, callers: Certificate = certificate) => {
      if (handler?.kind !== 'unary') throw new AppError('internal', 'GetBundle is not unary');
      const caller = { kind: 'svid', id: agentId, certificate: callers, address: 'test' } as const;
      await handler.handle(request as never, { caller } as never);
    };
    return { access, bundles, clock, certificate, stranger: stranger.certificate, call };
  }

  it('counts an agent from its first call on, and takes it for up to date once it has fetched the roots and calls again', async () => {
    const { access, bundles, clock, certificate, call } = await getBundle();
    await access.requireAgent({ kind: 'svid', id: agentId, certificate, address: 'test' });
    expect(bundles.agentsBehind(clock.now())).toBe(1);
    await call(all);
    expect(bundles.agentsBehind(clock.now())).toBe(1);
    await access.requireAgent({ kind: 'svid', id: agentId, certificate, address: 'test' });
    expect(bundles.agentsBehind(clock.now())).toBe(0);
  });

  it.each([
    { name: 'with a mask that has the roots', x509Authorities: true, behind: 0 },
    { name: 'but not with one that leaves them out', x509Authorities: false, behind: 1 },
  ])('takes it for up to date $name', async ({ x509Authorities, behind }) => {
    const { access, bundles, clock, certificate, call } = await getBundle();
    await access.requireAgent({ kind: 'svid', id: agentId, certificate, address: 'test' });
    await call({ outputMask: { ...nothing, sequenceNumber: true, x509Authorities } });
    await access.requireAgent({ kind: 'svid', id: agentId, certificate, address: 'test' });
    expect(bundles.agentsBehind(clock.now())).toBe(behind);
  });

  it('does not count who only bears the name of an agent', async () => {
    const { access, bundles, clock, certificate, stranger, call } = await getBundle();
    await access.requireAgent({ kind: 'svid', id: agentId, certificate, address: 'test' });
    await call(all, stranger);
    expect(bundles.agentsBehind(clock.now())).toBe(1);
  });
});
