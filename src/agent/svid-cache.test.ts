import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import { parseSelector } from '../spiffe/selector.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { bundleOf, TestTrustDomain } from '../testing/trust-domain.ts';
import { SvidCache, type Watch } from './svid-cache.ts';

const minuteMs = 60_000;
let authority: TestTrustDomain;
let foreign: TestTrustDomain;
let other: TestTrustDomain;
beforeAll(async () => {
  authority = await TestTrustDomain.create('example.org');
  foreign = await TestTrustDomain.create('foreign.org');
  other = await TestTrustDomain.create('other.org');
});

let clock: FakeClock;
let cache: SvidCache;
beforeEach(() => {
  clock = new FakeClock();
  cache = new SvidCache({ clock, keyType: 'ec-p256' });
});

function watch(...selectors: string[]): Watch {
  return cache.watch(selectors.map(parseSelector));
}

/** The SPIFFE IDs in a view; with `?` where the SVID is not there. */
function ids({ view }: Watch): string[] {
  return view.value.identities.map(
    ({ entry, svid }) => entry.spiffeId.path + (svid === undefined ? '?' : ''),
  );
}

/** How often the view is set while `change` runs. */
function changes({ view }: Watch, change: () => void): number {
  const before = view.version;
  change();
  return view.version - before;
}

function held(entry: RegistrationEntry, lifetimeMs = 60 * minuteMs) {
  return authority.sign(entry, { issuedAtMs: clock.now(), notAfterMs: clock.now() + lifetimeMs });
}

const web = testEntry({
  id: 'web',
  spiffeId: 'spiffe://example.org/web',
  selectors: ['unix:uid:1'],
  createdAt: 20,
});
const api = testEntry({
  id: 'api',
  spiffeId: 'spiffe://example.org/api',
  selectors: ['unix:uid:1', 'unix:gid:1'],
  createdAt: 10,
});

describe('a view', () => {
  test('has the identities whose selectors the workload has, oldest first', () => {
    cache.setEntries([web, api]);
    expect(ids(watch('unix:uid:1'))).toEqual(['/web?']);
    expect(ids(watch('unix:uid:1', 'unix:gid:1', 'unix:user:x'))).toEqual(['/api?', '/web?']);
    expect(ids(watch('unix:uid:2'))).toEqual([]);
  });

  test('gets SVIDs and bundles as they come', async () => {
    const watched = watch('unix:uid:1');
    cache.setEntries([web]);
    cache.setBundle(authority.bundle());
    expect(ids(watched)).toEqual(['/web?']);
    cache.putSvids([await held(web)]);
    expect(ids(watched)).toEqual(['/web']);
    expect(watched.view.value.bundle?.trustDomain.name).toBe('example.org');
  });

  test('is shared by workloads with the same selectors, in whatever order', () => {
    cache.setEntries([web]);
    expect(watch('unix:uid:1', 'unix:gid:1').view).toBe(watch('unix:gid:1', 'unix:uid:1').view);
    expect(watch('unix:uid:1').view).not.toBe(watch('unix:uid:2').view);
  });

  test('does not mix up selectors that only look alike when joined', () => {
    expect(watch('unix:path:/a\nunix:uid:0').view).not.toBe(watch('unix:path:/a', 'unix:uid:0').view);
  });

  test('of a workload without entries has no bundle', () => {
    cache.setEntries([web]);
    cache.setBundle(authority.bundle());
    expect(watch('unix:uid:2').view.value).toMatchObject({
      isSynced: true,
      identities: [],
      bundle: undefined,
    });
  });

  test('says whether the server has told the entries', () => {
    const watched = watch('unix:uid:2');
    expect(watched.view.value.isSynced).toBe(false);
    cache.setEntries([]);
    expect(watched.view.value.isSynced).toBe(true);
  });

  test('loses an identity whose entry is deleted, and everything with the last one', () => {
    const watched = watch('unix:uid:1', 'unix:gid:1');
    cache.setBundle(authority.bundle());
    cache.setEntries([web, api]);
    cache.setEntries([web]);
    expect(ids(watched)).toEqual(['/web?']);
    cache.setEntries([]);
    expect(watched.view.value).toMatchObject({ identities: [], bundle: undefined });
  });

  test('follows an entry whose selectors change', () => {
    const watched = watch('unix:uid:1');
    cache.setEntries([web]);
    cache.setEntries([testEntry({ ...fieldsOf(web), selectors: ['unix:uid:7'], revision: 1 })]);
    expect(ids(watched)).toEqual([]);
    expect(ids(watch('unix:uid:7'))).toEqual(['/web?']);
  });

  test('never has the SVID of an identity that the entry no longer names', async () => {
    const watched = watch('unix:uid:1');
    cache.setEntries([web]);
    cache.putSvids([await held(web)]);
    cache.setEntries([testEntry({ ...fieldsOf(web), spiffeId: 'spiffe://example.org/moved', revision: 1 })]);
    expect(ids(watched)).toEqual(['/moved?']);
  });

  test('keeps the SVID when the entry changes in anything else', async () => {
    const watched = watch('unix:uid:1');
    cache.setEntries([web]);
    cache.putSvids([await held(web)]);
    cache.setEntries([testEntry({ ...fieldsOf(web), hint: 'new', revision: 1 })]);
    expect(ids(watched)).toEqual(['/web']);
    expect(watched.view.value.identities[0]?.hint).toBe('new');
  });

  test('has no expired SVID', async () => {
    const watched = watch('unix:uid:1');
    cache.setEntries([web]);
    cache.putSvids([await held(web, 5 * minuteMs)]);
    await clock.advance(5 * minuteMs);
    expect(ids(watch('unix:uid:1', 'unix:gid:5'))).toEqual(['/web?']);
    expect(cache.expire(clock.now()).map(({ entry }) => entry.id)).toEqual(['web']);
    expect(ids(watched)).toEqual(['/web?']);
    expect(cache.expire(clock.now())).toEqual([]);
  });

  test('has each hint once: the oldest entry keeps it', () => {
    const entries = [
      testEntry({ id: 'c', hint: 'internal', createdAt: 2 }),
      testEntry({ id: 'b', hint: 'internal', createdAt: 1 }),
      testEntry({ id: 'a', hint: 'internal', createdAt: 2 }),
      testEntry({ id: 'd', hint: 'external', createdAt: 3 }),
    ];
    cache.setEntries(entries);
    const { identities } = watch('unix:uid:1000').view.value;
    expect(identities.map(({ entry, hint }) => [entry.id, hint])).toEqual([
      ['b', 'internal'],
      ['a', ''],
      ['c', ''],
      ['d', 'external'],
    ]);
  });
});

describe('a view is set', () => {
  test('not when the same entries, bundles and SVIDs come again', async () => {
    const entry = testEntry({ ...fieldsOf(web), federatesWith: ['foreign.org'] });
    const watched = watch('unix:uid:1');
    const svid = await held(entry);
    const fill = () => {
      cache.setEntries([testEntry({ ...fieldsOf(web), federatesWith: ['foreign.org'] })]);
      cache.setBundle(bundleOf('example.org', authority.bundle().certificates(), 7));
      cache.setFederatedBundles([bundleOf('foreign.org', foreign.bundle().certificates(), 9)]);
      cache.putSvids([svid]);
    };
    fill();
    expect(changes(watched, fill)).toBe(0);
  });

  test('not when something changes that is not in it', async () => {
    const watched = watch('unix:uid:1');
    const elsewhere = testEntry({ id: 'x', selectors: ['unix:uid:9'], federatesWith: ['other.org'] });
    cache.setEntries([testEntry({ ...fieldsOf(web), federatesWith: ['foreign.org'] }), elsewhere]);
    cache.setFederatedBundles([foreign.bundle()]);
    const svid = await held(elsewhere);
    expect(
      changes(watched, () => {
        cache.putSvids([svid]);
        cache.setFederatedBundles([foreign.bundle(), other.bundle()]);
        cache.setEntries([testEntry({ ...fieldsOf(web), federatesWith: ['foreign.org'] })]);
      }),
    ).toBe(0);
  });

  test('once for several SVIDs that come together', async () => {
    const watched = watch('unix:uid:1', 'unix:gid:1');
    cache.setEntries([web, api]);
    const svids = [await held(web), await held(api)];
    expect(changes(watched, () => cache.putSvids(svids))).toBe(1);
    expect(ids(watched)).toEqual(['/api', '/web']);
  });

  test('when the bundle gets another root', async () => {
    const watched = watch('unix:uid:1');
    cache.setEntries([web]);
    cache.setBundle(authority.bundle());
    const next = await TestTrustDomain.create('example.org');
    expect(
      changes(watched, () => cache.setBundle(authority.bundle().withAuthority(next.root.certificate))),
    ).toBe(1);
  });
});

describe('federated bundles', () => {
  test('are those the identities federate with, by name, without the own one', () => {
    cache.setBundle(authority.bundle());
    cache.setFederatedBundles([other.bundle(), foreign.bundle(), authority.bundle()]);
    cache.setEntries([
      testEntry({ id: 'a', federatesWith: ['other.org', 'foreign.org', 'example.org', 'unknown.org'] }),
      testEntry({ id: 'b', selectors: ['unix:uid:2'] }),
    ]);
    const names = ({ view }: Watch) => view.value.federatedBundles.map((bundle) => bundle.trustDomain.name);
    expect(names(watch('unix:uid:1000'))).toEqual(['foreign.org', 'other.org']);
    expect(names(watch('unix:uid:2'))).toEqual([]);
    expect(cache.federatedTrustDomains().map(String)).toEqual(['other.org', 'foreign.org', 'unknown.org']);
  });

  test('are one list for all views that have the same', () => {
    cache.setFederatedBundles([foreign.bundle()]);
    cache.setEntries([
      testEntry({ id: 'a', selectors: ['unix:uid:1'], federatesWith: ['foreign.org'] }),
      testEntry({ id: 'b', selectors: ['unix:uid:2'], federatesWith: ['foreign.org'] }),
    ]);
    const list = watch('unix:uid:1').view.value.federatedBundles;
    expect(watch('unix:uid:2').view.value.federatedBundles).toBe(list);
  });
});

describe('what is put in', () => {
  test('is ignored when its entry is gone, names another identity or is for an SVID store', async () => {
    const stored = testEntry({ id: 'stored', storeSvid: true });
    cache.setEntries([web, stored]);
    const strange = { ...(await held(api)), entry: web };
    cache.putSvids([await held(api), strange, await held(stored)]);
    expect(['web', 'api', 'stored'].map((id) => cache.findSvid(id))).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });
});

describe('demand', () => {
  test('is noted when a workload comes whose SVID is not there, and only then', async () => {
    cache.setEntries([web]);
    watch('unix:uid:9');
    expect(cache.demand.version).toBe(0);
    watch('unix:uid:1').release();
    expect(cache.demand.version).toBe(1);
    // It may never come, and the workload may connect in a loop: the server must not notice.
    watch('unix:uid:1').release();
    expect(cache.demand.version).toBe(1);
    cache.putSvids([await held(web, minuteMs)]);
    watch('unix:uid:1').release();
    expect(cache.demand.version).toBe(1);
    await clock.advance(minuteMs);
    cache.expire(clock.now());
    watch('unix:uid:1').release();
    expect(cache.demand.version).toBe(2);
  });

  test('puts what is waited for first, until the last one has gone', () => {
    const lazy = testEntry({ ...fieldsOf(web), id: 'lazy', disableX509SvidPrefetch: true });
    cache.setEntries([api, lazy]);
    const due = () => cache.due().map(({ entry }) => entry.id);
    expect(due()).toEqual(['api']);
    const first = watch('unix:uid:1');
    const second = watch('unix:uid:1');
    expect(due()).toEqual(['lazy', 'api']);
    first.release();
    first.release();
    expect(due()).toEqual(['lazy', 'api']);
    second.release();
    expect(due()).toEqual(['api']);
  });
});

test('a view that all have released is no longer kept up to date', () => {
  const watched = watch('unix:uid:1');
  watched.release();
  expect(changes(watched, () => cache.setEntries([web]))).toBe(0);
  expect(watch('unix:uid:1').view).not.toBe(watched.view);
});

/** An entry's fields as `testEntry` takes them. */
function fieldsOf({ id, spiffeId, createdAt }: RegistrationEntry) {
  return { id, spiffeId: spiffeId.toString(), createdAt, selectors: ['unix:uid:1'] };
}
