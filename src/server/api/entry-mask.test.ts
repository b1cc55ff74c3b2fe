import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Entry, EntryMask } from '../../gen/spire/api/types/entry.ts';
import { entryFromWire, entryToWire } from '../../rpc/messages.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { maskEntry, mergeEntry } from './entry-mask.ts';

const nothing = EntryMask.decode(new Uint8Array(0));
const fields = Object.keys(nothing) as (keyof EntryMask)[];
const empty = Entry.decode(new Uint8Array(0));

/** Two entries that differ in every field. */
const current = testEntry({ createdAt: 1_700_000_000, revision: 3 });
const changed = testEntry({
  id: 'entry-2',
  spiffeId: 'spiffe://example.org/other',
  parentId: SpiffeId.parse('spiffe://example.org/node'),
  selectors: ['unix:uid:2'],
  x509SvidTtlSeconds: 60,
  jwtSvidTtlSeconds: 61,
  federatesWith: ['other.org'],
  dnsNames: ['web'],
  admin: true,
  downstream: true,
  storeSvid: true,
  hint: 'other',
  expiresAt: 1_900_000_000,
  createdAt: 1_800_000_000,
  revision: 9,
  disableX509SvidPrefetch: true,
  jwtSvidIncludeJti: true,
});
const [currentWire, changedWire] = [entryToWire(current), entryToWire(changed)];

const anyMask = fc.subarray(fields).map((named) => ({
  named: new Set(named),
  mask: { ...nothing, ...Object.fromEntries(named.map((field) => [field, true])) },
}));

describe('an output mask', () => {
  it('leaves the id and exactly the fields that it names', () => {
    fc.assert(
      fc.property(anyMask, ({ named, mask }) => {
        const masked = maskEntry(changedWire, mask);
        expect(masked.id).toBe('entry-2');
        for (const field of fields) {
          expect(masked[field]).toEqual(named.has(field) ? changedWire[field] : empty[field]);
        }
        // What is left is a whole message.
        expect(Entry.decode(Entry.encode(masked).finish())).toEqual(masked);
      }),
    );
  });

  it('that is absent leaves all', () => {
    expect(maskEntry(changedWire, undefined)).toEqual(changedWire);
  });

  it('is tested with a field that means something for each of its names', () => {
    expect(fields.filter((field) => !(field in empty))).toEqual([]);
    for (const field of fields) expect(changedWire[field]).not.toEqual(currentWire[field]);
  });
});

describe('an input mask', () => {
  it('changes exactly the fields that it names, and never the id', () => {
    fc.assert(
      fc.property(anyMask, ({ named, mask }) => {
        const merged = entryToWire(mergeEntry(current, changedWire, mask));
        expect(merged.id).toBe('entry-1');
        for (const field of fields) {
          expect(merged[field]).toEqual((named.has(field) ? changedWire : currentWire)[field]);
        }
      }),
    );
  });

  it('that is absent changes all but the id', () => {
    expect(mergeEntry(current, changedWire, undefined)).toEqual({
      ...entryFromWire(changedWire),
      id: 'entry-1',
    });
  });

  it('does not ask for fields that it does not name', () => {
    const onlyHint = { ...empty, hint: 'new' };
    expect(mergeEntry(current, onlyHint, { ...nothing, hint: true })).toEqual({ ...current, hint: 'new' });
  });

  it.each([
    { name: 'takes a SPIFFE ID away', mask: { spiffeId: true } },
    { name: 'takes the parent away', mask: { parentId: true } },
    { name: 'has no mask and no SPIFFE ID', mask: undefined },
  ])('refuses a change that $name', ({ mask }) => {
    const merge = () => mergeEntry(current, empty, mask === undefined ? undefined : { ...nothing, ...mask });
    expect(merge).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });
});
