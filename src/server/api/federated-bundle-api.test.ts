import { status } from '@grpc/grpc-js';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  BundleService,
  BatchDeleteFederatedBundleRequest_Mode as Mode,
} from '../../gen/spire/api/server/bundle/v1/bundle.ts';
import { EntryService } from '../../gen/spire/api/server/entry/v1/entry.ts';
import { BundleMask, Bundle as WireBundle } from '../../gen/spire/api/types/bundle.ts';
import { callUnary } from '../../rpc/grpc-client.ts';
import { entryToWire } from '../../rpc/messages.ts';
import { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { TestIdentity } from '../../testing/certificates.ts';
import { jwtKey } from '../../testing/jwt-keys.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { noAbort, TestServer } from '../../testing/test-server.ts';

const { OK, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION } = status;
const empty = new Uint8Array(0);
const nothing = BundleMask.decode(empty);
const unmasked = { inputMask: undefined, outputMask: undefined };
const call = { signal: noAbort };
let asn1: Buffer;
let otherAsn1: Buffer;

beforeAll(async () => {
  asn1 = (await TestIdentity.root('other.org')).certificate.der;
  otherAsn1 = (await TestIdentity.root('other.org')).certificate.der;
});

/** A bundle with something in every field that is kept. */
function wire(fields: Partial<WireBundle> = {}): WireBundle {
  const { publicKey } = jwtKey('k');
  return {
    ...WireBundle.decode(empty),
    trustDomain: 'other.org',
    x509Authorities: [{ asn1, tainted: true }],
    jwtAuthorities: [{ keyId: 'k', publicKey: Buffer.from(publicKey), expiresAt: 7n, tainted: true }],
    refreshHint: 300n,
    sequenceNumber: 2n ** 64n - 1n,
    ...fields,
  };
}

type Store = 'batchCreateFederatedBundle' | 'batchSetFederatedBundle' | 'batchUpdateFederatedBundle';

async function store(
  server: TestServer,
  method: Store,
  bundle: WireBundle[],
  masks: { inputMask?: BundleMask; outputMask?: BundleMask } = {},
) {
  const request = { bundle, ...unmasked, ...masks };
  return (await callUnary(server.adminChannel, BundleService[method], request)).results;
}

const get = (server: TestServer, trustDomain: string, outputMask?: BundleMask) =>
  callUnary(server.adminChannel, BundleService.getFederatedBundle, { trustDomain, outputMask });

async function remove(server: TestServer, trustDomains: string[], mode: Mode = Mode.RESTRICT) {
  const request = { trustDomains, mode };
  return (await callUnary(server.adminChannel, BundleService.batchDeleteFederatedBundle, request)).results;
}

describe('storing federated bundles', () => {
  it.each<Store>(['batchCreateFederatedBundle', 'batchSetFederatedBundle'])(
    'by %s keeps all of them, for administrators and agents, also after a restart',
    async (method) => {
      const server = await TestServer.start();
      const bundle = wire();
      expect(await store(server, method, [bundle])).toEqual([{ status: { code: OK, message: '' }, bundle }]);
      expect(await get(server, 'other.org')).toEqual(bundle);
      expect(await get(server, 'spiffe://other.org')).toEqual(bundle);
      const agent = await server.join();
      const request = { trustDomain: 'other.org', outputMask: undefined };
      expect(await callUnary(agent.channel, BundleService.getFederatedBundle, request)).toEqual(bundle);
      const stored = await server.store.bundles.find(TrustDomain.parse('other.org'));
      expect(stored).toMatchObject({ sequence: 2n ** 64n - 1n, refreshHintSeconds: 300 });
    },
  );

  it('by creation does not replace, by setting does, by update needs one that is there', async () => {
    const server = await TestServer.start();
    const missing = await store(server, 'batchUpdateFederatedBundle', [wire()]);
    expect(missing).toEqual([
      { status: { code: NOT_FOUND, message: 'bundle not found' }, bundle: undefined },
    ]);
    const twice = await store(server, 'batchCreateFederatedBundle', [wire(), wire({ sequenceNumber: 1n })]);
    expect(twice.map((result) => result.status)).toEqual([
      { code: OK, message: '' },
      { code: ALREADY_EXISTS, message: 'bundle already exists' },
    ]);
    expect((await get(server, 'other.org')).sequenceNumber).toBe(2n ** 64n - 1n);
    await store(server, 'batchSetFederatedBundle', [wire({ sequenceNumber: 1n, jwtAuthorities: [] })]);
    expect(await get(server, 'other.org')).toMatchObject({ sequenceNumber: 1n, jwtAuthorities: [] });
  });

  it.each<{ name: string; mask: Partial<BundleMask>; changed: (keyof WireBundle)[] }>([
    { name: 'nothing', mask: {}, changed: [] },
    { name: 'the roots', mask: { x509Authorities: true }, changed: ['x509Authorities'] },
    { name: 'the keys', mask: { jwtAuthorities: true }, changed: ['jwtAuthorities'] },
    {
      name: 'the rest',
      mask: { refreshHint: true, sequenceNumber: true },
      changed: ['refreshHint', 'sequenceNumber'],
    },
  ])('by update changes $name when the mask says so', async ({ mask, changed }) => {
    const server = await TestServer.start();
    const before = wire();
    await store(server, 'batchCreateFederatedBundle', [before]);
    const change = wire({
      x509Authorities: [{ asn1: otherAsn1, tainted: false }],
      refreshHint: 60n,
      sequenceNumber: 5n,
    });
    const inputMask = { ...nothing, ...mask };
    const [result] = await store(server, 'batchUpdateFederatedBundle', [change], { inputMask });
    const expected = { ...before, ...Object.fromEntries(changed.map((field) => [field, change[field]])) };
    expect(result?.bundle).toEqual(expected);
    expect(await get(server, 'other.org')).toEqual(expected);
  });

  it('answers each item on its own, with what the mask names', async () => {
    const server = await TestServer.start();
    const outputMask = { ...nothing, refreshHint: true };
    const badRoot = [{ asn1: Buffer.from('malformed'), tainted: false }];
    const results = await store(
      server,
      'batchSetFederatedBundle',
      [
        wire({ trustDomain: 'spiffe://a.org' }),
        wire({ trustDomain: '' }),
        wire({ trustDomain: 'UPPER' }),
        wire({ trustDomain: 'example.org' }),
        wire({ x509Authorities: badRoot }),
        wire({ refreshHint: -1n }),
        wire({ trustDomain: 'b.org' }),
      ],
      { outputMask },
    );
    expect(results.map((result) => result.status?.code)).toEqual([
      OK,
      ...Array.from({ length: 5 }, () => INVALID_ARGUMENT),
      OK,
    ]);
    const messages = results.map((result) => result.status?.message);
    expect(messages[1]).toMatch(/^trust domain argument is not valid: /);
    expect(messages[3]).toBe("setting a federated bundle for the server's own trust domain is not allowed");
    expect(messages[4]).toMatch(/^failed to convert bundle: /);
    expect(results.map((result) => result.bundle?.trustDomain)).toEqual(['a.org', ...Array(5), 'b.org']);
    expect(results[0]?.bundle).toEqual({
      ...WireBundle.decode(empty),
      trustDomain: 'a.org',
      refreshHint: 300n,
    });
  });

  it('refuses a batch that is too large whole', async () => {
    const server = await TestServer.start();
    const bundles = Array.from({ length: 1001 }, () => WireBundle.decode(empty));
    await expect(store(server, 'batchSetFederatedBundle', bundles)).rejects.toMatchObject({
      code: 'resource-exhausted',
    });
    await expect(
      remove(
        server,
        bundles.map(() => 'a.org'),
      ),
    ).rejects.toMatchObject({
      code: 'resource-exhausted',
    });
  });
});

describe('reading federated bundles', () => {
  it.each([
    {
      name: 'example.org',
      code: 'invalid-argument',
      says: /^getting a federated bundle for the server's own trust domain is not allowed$/,
    },
    { name: 'unknown.org', code: 'not-found', says: /^bundle not found$/ },
    { name: 'malformed id', code: 'invalid-argument', says: /^trust domain argument is not valid: / },
  ])('refuses $name', async ({ name, code, says }) => {
    const server = await TestServer.start();
    await expect(get(server, name)).rejects.toMatchObject({ code, message: expect.stringMatching(says) });
  });

  it('gives what the mask names', async () => {
    const server = await TestServer.start();
    await store(server, 'batchSetFederatedBundle', [wire()]);
    const masked = await get(server, 'other.org', { ...nothing, x509Authorities: true });
    const expected = {
      ...WireBundle.decode(empty),
      trustDomain: 'other.org',
      x509Authorities: [{ asn1, tainted: true }],
    };
    expect(masked).toEqual(expected);
  });

  it('lists and counts them, ours counted in but not listed, in pages that are together the whole', async () => {
    const server = await TestServer.start();
    const names = ['a.org', 'b.org', 'c.org', 'd.org', 'zz.org'];
    await store(
      server,
      'batchSetFederatedBundle',
      [...names].reverse().map((trustDomain) => wire({ trustDomain })),
    );
    const list = (request: { pageSize?: number; pageToken?: string; outputMask?: BundleMask }) =>
      callUnary(server.adminChannel, BundleService.listFederatedBundles, {
        pageSize: 0,
        pageToken: '',
        outputMask: undefined,
        ...request,
      });
    expect(await server.admin.bundles.count(call)).toBe(6);
    for (const pageSize of [0, 1, 2, 5, 6, 1000]) {
      const seen: string[] = [];
      let pageToken = '';
      do {
        const page = await list({ pageSize, pageToken });
        if (pageSize > 0) expect(page.bundles.length).toBeLessThanOrEqual(pageSize);
        seen.push(...page.bundles.map(({ trustDomain }) => trustDomain));
        pageToken = page.nextPageToken;
      } while (pageToken !== '');
      expect(seen).toEqual(names);
    }
    const { bundles } = await list({ pageSize: 1, outputMask: { ...nothing, refreshHint: true } });
    expect(bundles).toEqual([{ ...WireBundle.decode(empty), trustDomain: 'a.org', refreshHint: 300n }]);
    for (const wrong of [{ pageSize: -1 }, { pageToken: 'a.org' }]) {
      await expect(list(wrong)).rejects.toMatchObject({ code: 'invalid-argument' });
    }
  });
});

describe('deleting federated bundles', () => {
  /** A server with the bundles of a.org and b.org, and an entry that federates with both. */
  async function federated() {
    const server = await TestServer.start();
    const agent = await server.join();
    const bundles = ['a.org', 'b.org'].map((trustDomain) => wire({ trustDomain }));
    await store(server, 'batchSetFederatedBundle', bundles);
    const federatesWith = ['a.org', 'b.org'];
    const entries = [
      testEntry({ id: 'both', parentId: agent.id, federatesWith }),
      testEntry({ id: 'none', parentId: agent.id, spiffeId: 'spiffe://example.org/none' }),
    ];
    await server.admin.entries.create(entries, call);
    const seen = async () => {
      const mine = await agent.client.syncAuthorizedEntries([], call);
      const inOrder = mine.toSorted((a, b) => (a.id < b.id ? -1 : 1));
      return inOrder.map(({ id, federatesWith, revision }) => [
        id,
        federatesWith.map(String).join(),
        revision,
      ]);
    };
    return { server, seen };
  }

  it('restricted, is refused with the entries that use them, and does not disturb the others', async () => {
    const { server, seen } = await federated();
    const results = await remove(server, ['a.org', 'unknown.org', 'example.org', 'UPPER']);
    expect(results.map(({ status, trustDomain }) => [trustDomain, status?.code])).toEqual([
      ['a.org', FAILED_PRECONDITION],
      ['unknown.org', NOT_FOUND],
      ['example.org', INVALID_ARGUMENT],
      ['UPPER', INVALID_ARGUMENT],
    ]);
    expect(results[0]?.status?.message).toMatch(
      /^failed to delete federated bundle: cannot delete bundle; federated with 1 registration entries: "both"/,
    );
    expect(results[1]?.status?.message).toBe('bundle not found');
    expect(results[2]?.status?.message).toBe(
      'removing the bundle for the server trust domain is not allowed',
    );
    expect(await get(server, 'a.org')).toMatchObject({ trustDomain: 'a.org' });
    expect(await seen()).toEqual([
      ['both', 'a.org,b.org', 0],
      ['none', '', 0],
    ]);
  });

  it('by dissociation, leaves the entry without it, and the agent learns of that', async () => {
    const { server, seen } = await federated();
    expect(await remove(server, ['a.org'], Mode.DISSOCIATE)).toMatchObject([{ status: { code: OK } }]);
    await expect(get(server, 'a.org')).rejects.toMatchObject({ code: 'not-found' });
    expect(await seen()).toEqual([
      ['both', 'b.org', 1],
      ['none', '', 0],
    ]);
  });

  it('with what uses them, deletes the entry, and the agent does not get it any more', async () => {
    const { server, seen } = await federated();
    expect(await remove(server, ['a.org'], Mode.DELETE)).toMatchObject([{ status: { code: OK } }]);
    expect(await seen()).toEqual([['none', '', 0]]);
    expect(await remove(server, ['b.org'])).toMatchObject([{ status: { code: OK } }]);
    expect(await server.admin.bundles.count(call)).toBe(1);
  });

  it('refuses a mode that there is not', async () => {
    const { server } = await federated();
    await expect(remove(server, ['a.org'], 7 as Mode)).rejects.toMatchObject({ code: 'invalid-argument' });
  });
});

it('an entry federates only with trust domains whose bundle is stored', async () => {
  const server = await TestServer.start();
  const request = {
    entries: [entryToWire(testEntry({ federatesWith: ['other.org'] }))],
    outputMask: undefined,
  };
  const create = async () =>
    (await callUnary(server.adminChannel, EntryService.batchCreateEntry, request)).results[0]?.status;
  expect(await create()).toEqual({
    code: FAILED_PRECONDITION,
    message: expect.stringContaining('unable to find federated bundle "spiffe://other.org"'),
  });
  await store(server, 'batchCreateFederatedBundle', [wire()]);
  expect(await create()).toEqual({ code: OK, message: '' });
});
