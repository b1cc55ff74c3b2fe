import fc from 'fast-check';
import { expect, it } from 'vitest';
import {
  BatchCreateEntryResponse_Result,
  ListEntriesResponse,
} from '../../gen/spire/api/server/entry/v1/entry.ts';
import { Entry } from '../../gen/spire/api/types/entry.ts';
import { encodedMessage, keptEncoded } from './encoded-message.ts';

const empty = new Uint8Array(0);
/** The letter has two bytes, neither of them ASCII. */
const entryOf = (hint: string): Entry => ({ ...Entry.decode(empty), id: 'e', hint: `é${hint}` });
/** On both sides of every length that needs another byte. */
const hint = fc
  .oneof(fc.nat(300), fc.constantFrom(120, 121, 122, 16_376, 16_377, 16_378, 70_000))
  .map((length) => 'x'.repeat(length));

it('is what the generated code writes', () => {
  fc.assert(
    fc.property(fc.array(hint, { maxLength: 8 }), fc.string(), (hints, nextPageToken) => {
      const entries = hints.map(entryOf);
      const whole = Buffer.from(ListEntriesResponse.encode({ entries, nextPageToken }).finish());
      const messages = entries.map((entry) => Entry.encode(entry).finish());
      const rest = ListEntriesResponse.encode({ entries: [], nextPageToken }).finish();
      expect(encodedMessage([{ field: 1, messages }, rest]).equals(whole)).toBe(true);
      expect(encodedMessage([{ field: 1, messages: messages.map(keptEncoded) }, rest]).equals(whole)).toBe(
        true,
      );
    }),
  );
});

it('takes its parts in any order and number', () => {
  const status = { code: 6, message: 'similar entry already exists' };
  const entry = entryOf('h');
  const fields = BatchCreateEntryResponse_Result.encode({ status, entry: undefined }).finish();
  const bytes = encodedMessage([fields, { field: 2, messages: [Entry.encode(entry).finish()] }]);
  expect(BatchCreateEntryResponse_Result.decode(bytes)).toEqual({ status, entry });
  expect(encodedMessage([])).toHaveLength(0);
});
