import fc from 'fast-check';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import { parseSelector } from '../spiffe/selector.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { TestTrustDomain } from '../testing/trust-domain.ts';
import { type KeyType, keyTypes } from '../x509/signature.ts';
import { SvidCache, type Watch } from './svid-cache.ts';
import type { HeldSvid, WantedKeyType } from './workload-view.ts';

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;
let authority: TestTrustDomain;
beforeAll(async () => {
  authority = await TestTrustDomain.create();
});

let clock: FakeClock;
let cache: SvidCache;
beforeEach(() => {
  clock = new FakeClock();
  cache = new SvidCache({ clock, keyType: 'ec-p256' });
});

const web = testEntry({
  id: 'web',
  spiffeId: 'spiffe://example.org/web',
  selectors: ['unix:uid:1'],
  createdAt: 1,
});
const api = testEntry({
  id: 'api',
  spiffeId: 'spiffe://example.org/api',
  selectors: ['unix:uid:1'],
  createdAt: 2,
  hint: 'internal',
});
const other = testEntry({ id: 'other', spiffeId: 'spiffe://example.org/other', selectors: ['unix:uid:2'] });
const idOf = ({ spiffeId }: RegistrationEntry) => spiffeId.toString();
const first = (keyType: KeyType): WantedKeyType => ({ kind: 'default-svid', keyType });
const named = (id: string, keyType: KeyType): WantedKeyType => ({ kind: 'svid', id, keyType });
const hinted = (hint: string, keyType: KeyType): WantedKeyType => ({ kind: 'hint', hint, keyType });

function watch(uid = 1, ...more: readonly string[]): Watch {
  return cache.watch([`unix:uid:${uid}`, ...more].map(parseSelector));
}

/** EC whatever the wish says: RSA keys take long to make, and the cache goes by what it is told. */
async function held(entry: RegistrationEntry, keyType: KeyType = 'ec-p384'): Promise<HeldSvid> {
  const nowMs = clock.now();
  const signed = await authority.sign(entry, { issuedAtMs: nowMs, notAfterMs: nowMs + hourMs });
  return { ...signed, keyType };
}

/** What is to be signed besides the usual kind of key. */
function due(): string[] {
  return cache
    .due()
    .filter(({ keyType }) => keyType !== 'ec-p256')
    .map(({ entry, keyType, reason }) => `${entry.id} ${keyType} ${reason}`)
    .sort();
}

/** The kinds of key in the view besides the usual one. */
function variants({ view }: Watch): Record<string, KeyType[]> {
  return Object.fromEntries(
    view.value.identities.map(({ entry, variants: all }) => [entry.id, [...all.keys()]]),
  );
}

describe('a wish for another kind of key', () => {
  test.each<{ name: string; wanted: readonly WantedKeyType[]; expected: readonly string[] }>([
    {
      name: 'for the default covers the first identity only',
      wanted: [first('ec-p384')],
      expected: ['web ec-p384'],
    },
    { name: 'for a SPIFFE ID covers it', wanted: [named(idOf(api), 'rsa-2048')], expected: ['api rsa-2048'] },
    {
      name: 'for a hint covers who has it',
      wanted: [hinted('internal', 'rsa-2048')],
      expected: ['api rsa-2048'],
    },
    { name: 'for no hint covers nothing', wanted: [hinted('', 'rsa-2048')], expected: [] },
    { name: 'for the usual kind covers nothing', wanted: [first('ec-p256')], expected: [] },
    {
      name: 'for an identity of others covers nothing',
      wanted: [named(idOf(other), 'ec-p384')],
      expected: [],
    },
    {
      name: 'counts once under all its names',
      wanted: [first('ec-p384'), named(idOf(web), 'ec-p384'), first('ec-p384')],
      expected: ['web ec-p384'],
    },
  ])('$name', ({ wanted, expected }) => {
    cache.setEntries([web, api, other]);
    watch().wantKeyTypes(wanted);
    expect(due()).toEqual(expected.map((one) => `${one} missing`));
  });

  test('is heard at once when it is new, and only then', async () => {
    cache.setEntries([web, api, other]);
    const watched = watch();
    const asked = () => cache.demand.version;
    const before = asked();
    watched.wantKeyTypes([first('ec-p384')]);
    expect(asked()).toBe(before + 1);
    watched.wantKeyTypes([named(idOf(web), 'ec-p384')]);
    watch().wantKeyTypes([first('ec-p384')]);
    watched.wantKeyTypes([named(idOf(other), 'ec-p384'), first('ec-p256')]);
    expect(asked()).toBe(before + 1);
    cache.putSvids([await held(web)]);
    watch().wantKeyTypes([first('ec-p384')]);
    expect(asked()).toBe(before + 1);
  });

  test('is heard once from a caller who connects over and over again, and whose SVID does not come', async () => {
    cache.setEntries([web]);
    const before = cache.demand.version;
    for (let i = 0; i < 50; i += 1) {
      const watched = watch();
      watched.wantKeyTypes([first('ec-p384')]);
      watched.release();
      await clock.advance(1_000);
      cache.expire(clock.now());
    }
    // The very first watch asks for the SVID with the usual key as well.
    expect(cache.demand.version).toBe(before + 2);
  });

  test('comes true in the views of those who are entitled, and stays in them', async () => {
    const watched = watch();
    const stranger = watch(2);
    cache.setEntries([web, api, other]);
    watched.wantKeyTypes([first('ec-p384')]);
    const before = stranger.view.version;
    cache.putSvids([await held(web), await held(web, 'ec-p256')]);
    expect(variants(watched)).toEqual({ web: ['ec-p384'], api: [] });
    expect(watched.view.value.identities[0]?.svid?.keyType).toBe('ec-p256');
    expect(stranger.view.version).toBe(before);
    expect(due()).toEqual([]);
  });

  test('is renewed as long as it is wanted, and left alone when nothing changes', async () => {
    const watched = watch();
    cache.setEntries([web]);
    watched.wantKeyTypes([first('ec-p384')]);
    cache.putSvids([await held(web)]);
    const before = watched.view.version;
    cache.setEntries([testEntry({ ...fieldsOf(web) })]);
    cache.expire(clock.now());
    expect(watched.view.version).toBe(before);
    await clock.advance(hourMs / 2);
    cache.expire(clock.now());
    expect(due()).toEqual(['web ec-p384 renewal']);
    cache.putSvids([await held(web)]);
    expect(watched.view.version).toBe(before + 1);
    expect(due()).toEqual([]);
  });

  test('that nobody has any more leaves its SVID until that would be renewed', async () => {
    cache.setEntries([web]);
    const watched = watch();
    watched.wantKeyTypes([first('ec-p384')]);
    cache.putSvids([await held(web)]);
    watched.release();
    await clock.advance(hourMs / 2 - 1);
    expect(cache.expire(clock.now())).toEqual([]);
    const again = watch();
    expect(variants(again)).toEqual({ web: ['ec-p384'] });
    await clock.advance(1);
    // Nobody is told that it has expired, because it has not.
    expect(cache.expire(clock.now())).toEqual([]);
    expect(variants(again)).toEqual({ web: [] });
    expect(due()).toEqual([]);
  });

  test('that was dropped before it came true is kept up for a minute, for a call that did not wait', async () => {
    cache.setEntries([testEntry({ ...fieldsOf(web), disableX509SvidPrefetch: true })]);
    const watched = watch();
    watched.wantKeyTypes([first('ec-p384')]);
    watched.release();
    await clock.advance(minuteMs - 1);
    cache.expire(clock.now());
    expect(due()).toEqual(['web ec-p384 missing']);
    await clock.advance(1);
    cache.expire(clock.now());
    expect(due()).toEqual([]);
  });

  test('of one caller does not end with that of another', () => {
    cache.setEntries([web]);
    const [one, two] = [watch(), watch()];
    for (const watched of [one, two]) watched.wantKeyTypes([first('ec-p384')]);
    one.release();
    one.release();
    one.wantKeyTypes([first('rsa-2048')]);
    expect(due()).toEqual(['web ec-p384 missing']);
  });

  test('made before there is an entry is heard when there is', () => {
    const watched = watch();
    watched.wantKeyTypes([first('ec-p384'), hinted('internal', 'rsa-2048')]);
    expect(due()).toEqual([]);
    cache.setEntries([web, api]);
    expect(due()).toEqual(['api rsa-2048 missing', 'web ec-p384 missing']);
    cache.setEntries([api]);
    expect(due()).toEqual(['api ec-p384 missing', 'api rsa-2048 missing']);
  });
});

describe('an SVID with another kind of key', () => {
  test('goes with its entry, and when the entry names another identity', async () => {
    const watched = watch();
    cache.setEntries([web, api]);
    cache.putSvids([await held(web), await held(api)]);
    expect(variants(watched)).toEqual({ web: ['ec-p384'], api: ['ec-p384'] });
    cache.setEntries([api]);
    cache.setEntries([
      testEntry({ ...fieldsOf(web), revision: 1 }),
      testEntry({ ...fieldsOf(api), spiffeId: idOf(web), revision: 1 }),
    ]);
    expect(variants(watched)).toEqual({ web: [], api: [] });
  });

  test('is signed anew when its entry says something else', async () => {
    const watched = watch();
    cache.setEntries([web]);
    watched.wantKeyTypes([first('ec-p384')]);
    cache.putSvids([await held(web)]);
    cache.setEntries([testEntry({ ...fieldsOf(web), dnsNames: ['a.example'], revision: 1 })]);
    expect(due()).toEqual(['web ec-p384 changed']);
  });

  test('is ignored when its entry is gone', async () => {
    cache.setEntries([api]);
    cache.putSvids([await held(web)]);
    cache.setEntries([web]);
    expect(variants(watch())).toEqual({ web: [] });
  });

  test('that is wanted is withdrawn when it expires, and told apart from the usual one', async () => {
    const watched = watch();
    cache.setEntries([web]);
    watched.wantKeyTypes([first('ec-p384')]);
    cache.putSvids([await held(web)]);
    await clock.advance(hourMs - 1);
    cache.putSvids([await held(web, 'ec-p256')]);
    await clock.advance(1);
    expect(variants(watch(1, 'unix:gid:1'))).toEqual({ web: [] });
    expect(cache.expire(clock.now()).map(({ keyType }) => keyType)).toEqual(['ec-p384']);
    expect(watched.view.value.identities[0]?.svid?.keyType).toBe('ec-p256');
    expect(due()).toEqual(['web ec-p384 missing']);
  });
});

test('whatever callers want and however they come and go, each makes be signed at most what its entries allow', () => {
  const entries = Array.from({ length: 6 }, (_, i) =>
    testEntry({
      id: `e${i}`,
      spiffeId: `spiffe://example.org/e${i % 4}`,
      selectors: [`unix:uid:${i % 3}`],
      hint: `h${i}`,
    }),
  );
  const keyType = fc.constantFrom(...keyTypes);
  const wish = fc.oneof(
    keyType.map(first),
    fc.tuple(fc.nat(5), keyType).map(([i, type]) => named(`spiffe://example.org/e${i}`, type)),
    fc.tuple(fc.nat(5), keyType).map(([i, type]) => hinted(`h${i}`, type)),
  );
  const step = fc.oneof(
    fc.record({
      kind: fc.constant('want' as const),
      uid: fc.nat(2),
      wishes: fc.array(wish, { maxLength: 4 }),
    }),
    fc.record({ kind: fc.constant('release' as const), index: fc.nat(9) }),
    fc.record({ kind: fc.constant('entries' as const), which: fc.subarray(entries) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const own = new SvidCache({ clock, keyType: 'ec-p256' });
      let watches: { uid: number; watch: Watch; wishes: readonly WantedKeyType[] }[] = [];
      let known: readonly RegistrationEntry[] = [];
      const everWanted = new Set<string>();
      for (const one of steps) {
        if (one.kind === 'entries') {
          known = one.which;
          own.setEntries(known);
        } else if (one.kind === 'release') {
          watches[one.index]?.watch.release();
          watches = watches.filter((_, index) => index !== one.index);
        } else {
          const watched = own.watch([parseSelector(`unix:uid:${one.uid}`)]);
          watched.wantKeyTypes(one.wishes);
          watches.push({ uid: one.uid, watch: watched, wishes: one.wishes });
        }
        const allowed = new Set(watches.flatMap(({ uid, wishes }) => expectedOf(known, uid, wishes)));
        for (const key of allowed) everWanted.add(key);
        const signed = own.due().filter((svid) => svid.keyType !== 'ec-p256');
        const keys = signed.map((svid) => `${svid.entry.id} ${svid.keyType}`);
        expect(new Set(keys).size).toBe(keys.length);
        // Nothing that is wanted is missing; what is more was wanted a moment ago.
        expect(keys).toEqual(expect.arrayContaining([...allowed]));
        for (const key of keys) expect(everWanted).toContain(key);
      }
    }),
    { numRuns: 200 },
  );
});

/** Straight from the rules. */
function expectedOf(
  entries: readonly RegistrationEntry[],
  uid: number,
  wishes: readonly WantedKeyType[],
): readonly string[] {
  const mine = entries.filter(({ selectors }) => selectors[0]?.value === `uid:${uid}`);
  return wishes
    .filter(({ keyType }) => keyType !== 'ec-p256')
    .flatMap((wish) => {
      const matching = mine.filter((entry) => wish.kind !== 'svid' || idOf(entry) === wish.id);
      const found = wish.kind === 'default-svid' ? matching.slice(0, 1) : matching;
      const really = wish.kind === 'hint' ? found.filter(({ hint }) => hint === wish.hint) : found;
      return really.map(({ id }) => `${id} ${wish.keyType}`);
    });
}

/** An entry's fields as `testEntry` takes them. */
function fieldsOf({ id, spiffeId, createdAt }: RegistrationEntry) {
  return { id, spiffeId: spiffeId.toString(), createdAt, selectors: ['unix:uid:1'] };
}
