import { createPrivateKey, createPublicKey } from 'node:crypto';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { ServerClient } from '../clients/server-client.ts';
import { AppError } from '../runtime/error.ts';
import { silentLogger } from '../runtime/log.ts';
import { parseSelector } from '../spiffe/selector.ts';
import { eventually } from '../testing/eventually.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { noAbort, TestServer } from '../testing/test-server.ts';
import { parseCsr } from '../x509/csr.ts';
import { type KeyType, keyTypeOfSpki } from '../x509/signature.ts';
import { SvidCache } from './svid-cache.ts';
import { SvidSigning } from './svid-signing.ts';

const call = { signal: noAbort };
type Client = Pick<ServerClient, 'batchNewX509Svid'>;
type Csrs = Parameters<Client['batchNewX509Svid']>[0];

/** The signing of an agent of a whole server, with entries for one workload. */
async function start(
  options: {
    readonly keyType?: KeyType;
    readonly paths?: readonly string[];
    /** Which of them the workload is entitled to; else to all. */
    readonly isGranted?: (path: string) => boolean;
    /** Of the server. */
    readonly settings?: Readonly<Record<string, unknown>>;
    /** Before each batch, with the types of its keys; an error that is returned is the answer to each of them. */
    readonly before?: (types: readonly string[]) => Promise<AppError | undefined>;
  } = {},
) {
  const { keyType = 'ec-p256', paths = ['/web'], before = async () => undefined } = options;
  const { isGranted = () => true, settings = {} } = options;
  const server = await TestServer.start({ settings });
  const { client, id } = await server.join();
  const { clock } = server;
  const cache = new SvidCache({ clock, keyType });
  const entries = paths.map((path) => ({
    ...testEntry({
      id: '',
      spiffeId: `spiffe://example.org${path}`,
      selectors: [isGranted(path) ? 'unix:uid:1000' : 'unix:uid:2000'],
    }),
    parentId: id,
  }));
  await server.admin.entries.create(entries, call);
  cache.setBundle(await client.getBundle(call));
  const onInvalid = (_: string, error: AppError) => expect.unreachable(error.message);
  await eventually(async () => {
    cache.setEntries(await client.syncAuthorizedEntries([], { ...call, onInvalid }));
    expect(cache.entries.size).toBe(paths.length);
  });
  const asked: string[][] = [];
  const watched: Client = {
    batchNewX509Svid: async (csrs: Csrs, options) => {
      const types = csrs.map(({ csr }) => keyTypeOfSpki(parseCsr(csr).spki) ?? '');
      asked.push(types);
      const refusal = await before(types);
      return refusal === undefined ? client.batchNewX509Svid(csrs, options) : csrs.map(() => refusal);
    },
  };
  const signing = new SvidSigning(
    { client: () => watched, cache, clock, log: silentLogger },
    { windows: { first: [0.5, 0.5], later: [0.5, 0.5] } },
  );
  onTestFinished(() => signing.settled());
  const caller = cache.watch([parseSelector('unix:uid:1000')]);
  const identities = () => caller.view.value.identities;
  /** As an administrator does; the agent learns of it. */
  const taint = async () => {
    const { authorities } = server.admin;
    const [old] = (await authorities.show(call)).authorities;
    const { id: next } = await authorities.prepare({ newRoot: false, ...call });
    await authorities.activate(next, call);
    await authorities.taint(old?.id ?? '', { isUpstream: false, ...call });
    cache.setBundle(await client.getBundle(call));
  };
  return { cache, clock, signing, caller, asked, identities, taint };
}

const manyPaths = (count: number) => Array.from({ length: count }, (_, i) => `/w${i}`);

describe('SVIDs below a tainted authority', () => {
  it('are replaced at once, those that a workload uses in the first batch, and then no more', async () => {
    const isGranted = (path: string) => path === '/w149';
    const { signing, cache, identities, taint } = await start({ paths: manyPaths(150), isGranted });
    await signing.signDue(noAbort);
    expect(cache.due()).toEqual([]);
    const before = identities().map(({ svid }) => svid?.svid.leaf.fingerprint);
    await taint();
    expect(cache.due()).toHaveLength(150);
    expect(await signing.signDue(noAbort, () => true)).toBe(false);
    expect(cache.due()).toHaveLength(50);
    const after = identities().map(({ svid }) => svid?.svid.leaf.fingerprint);
    expect(after).toHaveLength(1);
    expect(after).not.toEqual(before);
    expect(await signing.signDue(noAbort, () => true)).toBe(true);
    expect(cache.due()).toEqual([]);
  });

  it('are replaced no faster than the server allows all agents together', async () => {
    const settings = { limits: { signing: { totalPerSecond: 50 } } };
    const { signing, cache, clock, taint } = await start({ paths: manyPaths(200), settings });
    const secondsOf = async (run: Promise<unknown>) => {
      const startMs = clock.monotonic();
      let isOver = false;
      const over = run.then(() => {
        isOver = true;
      });
      await eventually(async () => {
        await clock.advance(isOver ? 0 : 100);
        expect(isOver).toBe(true);
      });
      await over;
      return (clock.monotonic() - startMs) / 1000;
    };
    await secondsOf(signing.signDue(noAbort));
    await taint();
    await clock.advance(10_000);
    const seconds = await secondsOf(signing.signDue(noAbort));
    expect(cache.due()).toEqual([]);
    // 200 less the 50 and the debt of 50 that a full bucket allows.
    expect(seconds).toBeGreaterThanOrEqual(2);
  });
});

describe('a workload that wants other kinds of keys', () => {
  it('gets them from a real server, beside the usual one', async () => {
    const { signing, caller, identities } = await start();
    caller.wantKeyTypes([
      { kind: 'default-svid', keyType: 'ec-p384' },
      { kind: 'svid', id: 'spiffe://example.org/web', keyType: 'rsa-2048' },
    ]);
    await signing.signDue(noAbort);
    await signing.settled();
    const [identity] = identities();
    const all = [identity?.svid, ...(identity?.variants.values() ?? [])];
    expect(all.map((held) => held?.keyType)).toEqual(['ec-p256', 'ec-p384', 'rsa-2048']);
    for (const held of all) {
      const leaf = held?.svid.leaf;
      expect(held?.svid.id.toString()).toBe('spiffe://example.org/web');
      expect(leaf && keyTypeOfSpki(leaf.spki)).toBe(held?.keyType);
      const spki = createPublicKey(createPrivateKey(held?.privateKeyPem ?? '')).export({
        format: 'der',
        type: 'spki',
      });
      expect(spki).toEqual(leaf?.spki);
    }
  });

  it('gets nothing that others are entitled to', async () => {
    const { signing, caller, asked, identities } = await start({ paths: ['/web', '/api'] });
    caller.wantKeyTypes([{ kind: 'svid', id: 'spiffe://example.org/elsewhere', keyType: 'ec-p384' }]);
    await signing.signDue(noAbort);
    expect(asked).toEqual([['ec-p256', 'ec-p256']]);
    expect(identities().map(({ variants }) => variants.size)).toEqual([0, 0]);
  });

  it('gets renewals of each with a new key', async () => {
    const { signing, caller, clock, identities } = await start();
    caller.wantKeyTypes([{ kind: 'default-svid', keyType: 'ec-p384' }]);
    await signing.signDue(noAbort);
    const before = identities()[0]?.variants.get('ec-p384');
    await clock.advance(31 * 60_000);
    await signing.signDue(noAbort);
    const after = identities()[0]?.variants.get('ec-p384');
    expect(after?.privateKeyPem).toBeDefined();
    expect(after?.privateKeyPem).not.toBe(before?.privateKeyPem);
  });
});

it('what the server refuses does not keep the rest from being signed', async () => {
  let isRefused = true;
  const { signing, cache, asked, identities } = await start({
    paths: manyPaths(150),
    before: async () => (isRefused ? new AppError('permission-denied', 'not these') : undefined),
  });
  const first = cache.due().slice(0, 100);
  const isTimeUp = () => true;
  await expect(signing.signDue(noAbort, isTimeUp)).rejects.toThrow('100 SVIDs could not be signed');
  const refused = new Set(first.map(({ entry }) => entry.id));
  const isTold = identities().filter(({ unsigned }) => unsigned?.has('ec-p256'));
  expect(new Set(isTold.map(({ entry }) => entry.id))).toEqual(refused);
  isRefused = false;
  expect(await signing.signDue(noAbort, isTimeUp)).toBe(false);
  expect(asked.map((types) => types.length)).toEqual([100, 100]);
  const signed = identities().filter(({ svid }) => svid !== undefined);
  expect(signed.filter(({ entry }) => !refused.has(entry.id))).toHaveLength(50);
  expect(await signing.signDue(noAbort, isTimeUp)).toBe(true);
  expect(cache.due()).toEqual([]);
  expect(identities().filter(({ unsigned }) => unsigned !== undefined)).toEqual([]);
});

describe('RSA keys', () => {
  const rsa = { kind: 'default-svid', keyType: 'rsa-2048' } as const;

  it('are waited for by nothing else', async () => {
    const gate = Promise.withResolvers<undefined>();
    const { signing, caller, asked, identities, cache } = await start({
      before: async (types) => (types.some((type) => type.startsWith('rsa')) ? gate.promise : undefined),
    });
    caller.wantKeyTypes([rsa]);
    await signing.signDue(noAbort);
    expect(identities()[0]?.svid).toBeDefined();
    await eventually(async () => expect(asked).toContainEqual(['rsa-2048']));
    caller.wantKeyTypes([rsa, { kind: 'default-svid', keyType: 'ec-p384' }]);
    await signing.signDue(noAbort);
    expect([...(identities()[0]?.variants.keys() ?? [])]).toEqual(['ec-p384']);
    gate.resolve(undefined);
    await signing.settled();
    expect([...(identities()[0]?.variants.keys() ?? [])]).toEqual(['ec-p384', 'rsa-2048']);
    expect(cache.due()).toEqual([]);
    expect(asked.filter(([type]) => type === 'rsa-2048')).toHaveLength(1);
  });

  it('are made two at a time, the most urgent first, also when they are the usual ones', async () => {
    const { signing, caller, asked, identities } = await start({ keyType: 'rsa-2048', paths: ['/a', '/b'] });
    caller.wantKeyTypes([{ kind: 'default-svid', keyType: 'rsa-3072' }]);
    await signing.signDue(noAbort);
    await signing.settled();
    expect(asked).toEqual([['rsa-2048', 'rsa-2048'], ['rsa-3072']]);
    expect(identities().map(({ svid }) => svid?.keyType)).toEqual(['rsa-2048', 'rsa-2048']);
  });

  it('that the server does not sign are reported until they are signed, and made anew only after a while', async () => {
    let refusal: AppError | undefined = new AppError('permission-denied', 'no RSA here');
    const { signing, caller, asked, clock, cache } = await start({
      before: async ([type]) => (type === 'rsa-2048' ? refusal : undefined),
    });
    caller.wantKeyTypes([rsa]);
    await signing.signDue(noAbort);
    await signing.settled();
    for (let round = 0; round < 3; round += 1) {
      await clock.advance(9_000);
      await expect(signing.signDue(noAbort)).rejects.toThrow('spiffe://example.org/web: no RSA here');
      await signing.settled();
    }
    expect(asked).toEqual([['ec-p256'], ['rsa-2048']]);
    refusal = undefined;
    await clock.advance(3_000);
    await signing.signDue(noAbort).catch(() => undefined);
    await signing.settled();
    await signing.signDue(noAbort);
    expect(cache.due()).toEqual([]);
  });

  it('that nobody wants any more are no longer reported', async () => {
    const { signing, caller, clock, cache } = await start({
      before: async ([type]) => (type === 'rsa-2048' ? new AppError('permission-denied', 'no') : undefined),
    });
    caller.wantKeyTypes([rsa]);
    await signing.signDue(noAbort);
    await signing.settled();
    await expect(signing.signDue(noAbort)).rejects.toThrow('no');
    caller.wantKeyTypes([]);
    await clock.advance(60_000);
    cache.expire(clock.now());
    await signing.signDue(noAbort);
  });

  it('are tried again in the next round when the server was away', async () => {
    let isAway = true;
    const { signing, caller, cache } = await start({
      before: async (types) => {
        if (isAway && types[0] === 'rsa-2048') throw new AppError('unavailable', 'the server is away');
        return undefined;
      },
    });
    caller.wantKeyTypes([rsa]);
    await signing.signDue(noAbort);
    await signing.settled();
    isAway = false;
    await expect(signing.signDue(noAbort)).rejects.toThrow('the server is away');
    await signing.settled();
    await signing.signDue(noAbort);
    expect(cache.due()).toEqual([]);
  });
});
