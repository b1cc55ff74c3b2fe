import fc from 'fast-check';
import { expect, it } from 'vitest';
import { GetAuthorizedEntriesResponse } from '../../gen/spire/api/server/entry/v1/entry.ts';
import { EntryMask } from '../../gen/spire/api/types/entry.ts';
import { entryToWire } from '../../rpc/messages.ts';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { encodedMessage } from './encoded-message.ts';
import { EntryEncoder } from './entry-encoder.ts';
import { maskEntry } from './entry-mask.ts';

const nothing = EntryMask.decode(new Uint8Array(0));
const fields = Object.keys(nothing) as (keyof EntryMask)[];
const anyMask = fc.option(
  fc.subarray(fields).map((named) => ({ ...nothing, ...Object.fromEntries(named.map((f) => [f, true])) })),
  { nil: undefined },
);

function decoded(encoder: EntryEncoder, entries: readonly RegistrationEntry[], mask: EntryMask | undefined) {
  const messages = encoder.entries(entries, mask);
  return GetAuthorizedEntriesResponse.decode(encodedMessage([{ field: 1, messages }])).entries;
}

it('gives each caller what its own mask names, whatever masks others have used before', () => {
  // Few entries and many masks, so that what is kept is used, forgotten and made again.
  const entries = ['é', 'b'].map((hint, i) =>
    testEntry({ id: `e${i}`, hint, dnsNames: ['web'], admin: true }),
  );
  const encoder = new EntryEncoder();
  fc.assert(
    fc.property(anyMask, fc.subarray(entries), (mask, some) => {
      const expected = some.map((entry) => maskEntry(entryToWire(entry), mask));
      expect(decoded(encoder, some, mask)).toEqual(expected);
    }),
    { numRuns: 300 },
  );
});

it('gives the new state of an entry that was changed', () => {
  const encoder = new EntryEncoder();
  const before = testEntry({ hint: 'before' });
  expect(decoded(encoder, [before], undefined)[0]?.hint).toBe('before');
  expect(decoded(encoder, [{ ...before, hint: 'after', revision: 1 }], undefined)[0]?.hint).toBe('after');
  expect(encoder.revisions([before])).not.toEqual(encoder.revisions([{ ...before, revision: 1 }]));
});
