import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { BundleDeleteMode, DataStore } from '../../plugin-api/data-store.ts';
import { isAppError } from '../../runtime/error.ts';
import { Bundle } from '../../spiffe/bundle.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { Certificate } from '../../x509/certificate.ts';
import { jwtKey } from '../jwt-keys.ts';
import { boom, emptyBundle, makeRoot, newEntry, type OpenHarness, ours } from './samples.ts';

const other = TrustDomain.parse('other.org');
const modes: readonly BundleDeleteMode[] = ['restrict', 'dissociate', 'delete'];

/** What every store of trust bundles must do. */
export function describeBundleStore(open: OpenHarness): void {
  describe('bundles', () => {
    describesBundles(open);
    describesFederation(open);
    describesDeletions(open);
  });
}

function describesBundles(open: OpenHarness): void {
  it('come back as they were stored, also after a restart', async () => {
    const { store, reopen } = await open();
    const [first, second] = [await makeRoot('1'), await makeRoot('2')];
    const bundle = new Bundle({
      trustDomain: ours,
      x509Authorities: [
        { certificate: second, tainted: false },
        { certificate: first, tainted: true },
      ],
      jwtAuthorities: [
        { ...jwtKey('b', 'rsa'), tainted: true },
        { ...jwtKey('a'), expiresAt: 1_800_000_000 },
      ],
      sequence: 2n ** 64n - 1n,
      refreshHintSeconds: 300,
    });
    expect(await store.bundles.update(ours, () => bundle)).toBe(bundle);
    const found = await (await reopen()).bundles.find(ours);
    expect(found && contentOf(found)).toEqual(contentOf(bundle));
  });

  it('are kept apart by trust domain', async () => {
    const { store } = await open();
    await store.bundles.update(ours, () => emptyBundle());
    expect(await store.bundles.find(other)).toBeUndefined();
    const wrong = store.bundles.update(other, () => emptyBundle());
    await expect(wrong).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(await store.bundles.find(other)).toBeUndefined();
  });

  it('are listed in order of trust domain, with all that they have', async () => {
    const { store } = await open();
    const bundles = ['b.org', 'a.org', '0.org'].map((name) => bundleFor(TrustDomain.parse(name), name));
    for (const bundle of bundles) await store.bundles.update(bundle.trustDomain, () => bundle);
    const listed = await store.bundles.list();
    expect(listed.map(contentOf)).toEqual([...bundles].reverse().map(contentOf));
  });

  it('lose what a later one does not have', async () => {
    const { store } = await open();
    await store.bundles.update(other, () => bundleFor(other, 'k'));
    await store.bundles.update(other, () => bundleFor(other));
    expect((await store.bundles.find(other))?.jwtAuthorities).toEqual([]);
  });

  it('lose no authority when several are added at the same time', async () => {
    const { store } = await open();
    const roots = await Promise.all(['1', '2', '3', '4'].map(makeRoot));
    const add = (root: Certificate) =>
      store.bundles.update(ours, (current) => (current ?? emptyBundle()).withAuthority(root));
    await Promise.all(roots.map(add));
    const found = await store.bundles.find(ours);
    const fingerprints = (list: readonly Certificate[]) => new Set(list.map((c) => c.fingerprint));
    expect(fingerprints(found?.certificates() ?? [])).toEqual(fingerprints(roots));
    expect(found?.sequence).toBe(4n);
  });

  it('stay as they were when the change throws', async () => {
    const { store } = await open();
    await store.bundles.update(ours, () => emptyBundle(3));
    await expect(store.bundles.update(ours, boom)).rejects.toMatchObject({ code: 'aborted' });
    expect((await store.bundles.find(ours))?.sequence).toBe(3n);
  });
}

function describesFederation(open: OpenHarness): void {
  const federating = newEntry({ federatesWith: [other] });

  it('must be there for entries that federate with their trust domain', async () => {
    const { store, reopen } = await open();
    const [refusal] = await store.entries.create([federating]);
    expect(refusal).toMatchObject({ code: 'failed-precondition' });
    expect(refusal).toHaveProperty('message', expect.stringContaining('"spiffe://other.org"'));
    expect(await store.entries.list()).toEqual([]);
    await store.bundles.update(other, () => bundleFor(other));
    expect(await store.entries.create([federating])).toMatchObject([{ created: true }]);
    const [stored] = await (await reopen()).entries.list();
    expect(stored?.federatesWith.map(String)).toEqual(['other.org']);
  });

  it('must be there when an entry begins to federate', async () => {
    const { store } = await open();
    await store.entries.create([newEntry()]);
    const begin = () =>
      store.entries.update([{ id: 'e1', change: (e) => ({ ...e, federatesWith: [other] }) }]);
    expect(await begin()).toMatchObject([{ code: 'failed-precondition' }]);
    expect(await store.entries.list()).toMatchObject([{ federatesWith: [], revision: 0 }]);
    await store.bundles.update(other, () => bundleFor(other));
    expect(await begin()).toMatchObject([{ revision: 1 }]);
  });

  it('never go while an entry that needs them comes', async () => {
    const { store } = await open();
    await store.bundles.update(other, () => bundleFor(other));
    const [[created], deleted] = await Promise.all([
      store.entries.create([federating]),
      store.bundles.delete(other, 'restrict').catch((error: unknown) => error),
    ]);
    expect(isAppError(created) === isAppError(deleted)).toBe(false);
    expect((await store.bundles.find(other)) === undefined).toBe(isAppError(created));
  });
}

function describesDeletions(open: OpenHarness): void {
  it('that are not there cannot be deleted', async () => {
    const { store } = await open();
    for (const mode of modes) {
      await expect(store.bundles.delete(other, mode)).rejects.toMatchObject({ code: 'not-found' });
    }
  });

  it('name the entries that keep them from being deleted', async () => {
    const { store } = await open();
    await store.bundles.update(other, () => bundleFor(other, 'k'));
    await store.entries.create(Array.from({ length: 7 }, (_, i) => entryOf(`e${i}`, [other])));
    const deletion = store.bundles.delete(other, 'restrict');
    await expect(deletion).rejects.toMatchObject({ code: 'failed-precondition' });
    const { message } = (await deletion.catch((error: unknown) => error)) as Error;
    expect(message).toMatch(/^cannot delete bundle; federated with 7 registration entries: "e0" \(spiffe:/);
    expect(message).toContain('and 2 more');
    expect((await store.bundles.find(other))?.jwtAuthorities).toHaveLength(1);
  });

  it('are told by their whole name', async () => {
    const { store } = await open();
    const [longer, alike] = ['an-other.org', 'other_org'].map(TrustDomain.parse) as [
      TrustDomain,
      TrustDomain,
    ];
    for (const domain of [other, longer, alike]) await store.bundles.update(domain, () => bundleFor(domain));
    await store.entries.create([entryOf('e1', [longer]), entryOf('e2', [alike])]);
    expect(await store.bundles.delete(other, 'restrict')).toEqual({ changed: [], deletedIds: [] });
  });

  it('do to bundles and entries what a model says, and nothing else', async () => {
    const names = ['a.org', 'b.org', 'c.org'];
    const federations = fc.array(fc.subarray(names), { maxLength: 6 });
    const deletion = fc.record({ name: fc.constantFrom(...names), mode: fc.constantFrom(...modes) });
    await fc.assert(
      fc.asyncProperty(federations, fc.array(deletion, { maxLength: 5 }), async (federations, deletions) => {
        const { store } = await open();
        const model = new Model(names, federations);
        for (const domain of names.map(TrustDomain.parse))
          await store.bundles.update(domain, () => bundleFor(domain, domain.name));
        const wanted = federations.map((list, i) => entryOf(`e${i}`, list.map(TrustDomain.parse)));
        await store.entries.create(wanted);
        for (const { name, mode } of deletions) {
          const outcome = await store.bundles.delete(TrustDomain.parse(name), mode).then(
            ({ changed, deletedIds }) => [changed.map(({ id }) => id), [...deletedIds]],
            (error: unknown) => (isAppError(error) ? error.code : error),
          );
          expect(outcome).toEqual(model.delete(name, mode));
          expect(await stateOf(store)).toEqual(model.state());
        }
      }),
      { numRuns: 15 },
    );
  });
}

/** What stored bundles and entries should be. */
class Model {
  readonly #bundles: Set<string>;
  readonly #entries: Map<string, { federatesWith: readonly string[]; revision: number }>;

  constructor(bundles: readonly string[], federations: readonly (readonly string[])[]) {
    this.#bundles = new Set(bundles);
    this.#entries = new Map(federations.map((list, i) => [`e${i}`, { federatesWith: list, revision: 0 }]));
  }

  delete(name: string, mode: BundleDeleteMode): unknown {
    if (!this.#bundles.has(name)) return 'not-found';
    const using = [...this.#entries].filter(([, { federatesWith }]) => federatesWith.includes(name));
    if (using.length > 0 && mode === 'restrict') return 'failed-precondition';
    this.#bundles.delete(name);
    const ids = using.map(([id]) => id);
    for (const [id, { federatesWith, revision }] of using) {
      if (mode === 'delete') this.#entries.delete(id);
      else {
        const kept = federatesWith.filter((domain) => domain !== name);
        this.#entries.set(id, { federatesWith: kept, revision: revision + 1 });
      }
    }
    return mode === 'delete' ? [[], ids] : [ids, []];
  }

  state(): unknown {
    return { bundles: [...this.#bundles], entries: [...this.#entries] };
  }
}

async function stateOf(store: DataStore): Promise<unknown> {
  const entries = await store.entries.list();
  return {
    bundles: (await store.bundles.list()).map(({ trustDomain }) => trustDomain.name),
    entries: entries.map((e) => [
      e.id,
      { federatesWith: e.federatesWith.map(({ name }) => name), revision: e.revision },
    ]),
  };
}

function entryOf(id: string, federatesWith: readonly TrustDomain[]) {
  return newEntry({ id, spiffeId: SpiffeId.of(ours, `/${id}`), federatesWith });
}

function bundleFor(trustDomain: TrustDomain, ...keyIds: readonly string[]): Bundle {
  const jwtAuthorities = keyIds.map((keyId) => jwtKey(keyId));
  return new Bundle({ trustDomain, x509Authorities: [], jwtAuthorities, sequence: 1, refreshHintSeconds: 0 });
}

function contentOf(bundle: Bundle): unknown {
  const { trustDomain, x509Authorities, jwtAuthorities, sequence, refreshHintSeconds } = bundle;
  return {
    trustDomain: trustDomain.name,
    x509: x509Authorities.map(({ certificate, tainted }) => [certificate.fingerprint, tainted]),
    jwt: jwtAuthorities.map((key) => ({ ...key, publicKey: Buffer.from(key.publicKey).toString('hex') })),
    sequence,
    refreshHintSeconds,
  };
}
