import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { toYaml } from '../runtime/config-file.ts';
import type { NewEntry, RegistrationEntry } from '../spiffe/registration-entry.ts';
import { canonicalSelectors } from '../spiffe/selector.ts';
import { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { entryColumns, entryRow, parseEntries } from './entry-document.ts';

const segment = fc.stringMatching(/^[A-Za-z0-9_-]{1,12}$/);
const spiffeId = fc
  .array(segment, { minLength: 1, maxLength: 4 })
  .map((segments) => SpiffeId.parse(`spiffe://example.org/${segments.join('/')}`));
const anyText = fc.string({ unit: 'binary', maxLength: 20 });
const selector = fc.record({
  type: fc.stringMatching(/^[a-z0-9_]{1,8}$/),
  value: fc.string({ unit: 'binary', minLength: 1, maxLength: 20 }),
});
/** Up to the last second that RFC 3339 can name. */
const moment = fc.integer({ min: 1, max: 253_402_300_799 });
const ttl = fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 2_147_483_647 }));

const entry: fc.Arbitrary<RegistrationEntry> = fc.record({
  id: fc.stringMatching(/^[-._0-9A-Za-z]{1,40}$/),
  spiffeId,
  parentId: spiffeId,
  selectors: fc.array(selector, { minLength: 1, maxLength: 4 }).map(canonicalSelectors),
  x509SvidTtlSeconds: ttl,
  jwtSvidTtlSeconds: ttl,
  federatesWith: fc.array(fc.constantFrom('other.org', 'a_b.c', '0x1').map(TrustDomain.parse)),
  dnsNames: fc.array(fc.oneof(fc.domain(), fc.constantFrom('1.2', '0x10', 'yes', '*.a'))),
  admin: fc.boolean(),
  downstream: fc.boolean(),
  storeSvid: fc.boolean(),
  hint: anyText,
  expiresAt: fc.oneof(fc.constant(0), moment),
  createdAt: moment,
  revision: fc.nat(),
  disableX509SvidPrefetch: fc.boolean(),
  jwtSvidIncludeJti: fc.boolean(),
});

/** What the server does not decide, comparable. */
function essenceOf(entries: readonly (NewEntry | RegistrationEntry)[]) {
  return entries.map((entry) => {
    const { revision: _revision, createdAt: _createdAt, ...fields } = { revision: 0, createdAt: 0, ...entry };
    return {
      ...fields,
      spiffeId: fields.spiffeId.toString(),
      parentId: fields.parentId.toString(),
      federatesWith: fields.federatesWith.map(String),
    };
  });
}

describe('an entry that was printed', () => {
  it.each([
    { format: 'JSON', print: (value: unknown) => JSON.stringify(value, undefined, 2) },
    { format: 'YAML', print: toYaml },
  ])('as $format is read back with nothing lost', ({ print }) => {
    fc.assert(
      fc.property(fc.array(entry, { minLength: 1, maxLength: 3 }), (entries) => {
        expect(essenceOf(parseEntries(print(entries.map(entryRow)), 'f'))).toEqual(essenceOf(entries));
      }),
      { numRuns: 150 },
    );
  });

  it('may stand alone, without a list around it', () => {
    const one = testEntry();
    expect(essenceOf(parseEntries(JSON.stringify(entryRow(one)), 'f'))).toEqual(essenceOf([one]));
  });

  it('has all columns of the table', () => {
    expect(Object.keys(entryRow(testEntry()))).toEqual(expect.arrayContaining([...entryColumns]));
  });

  it.each([253_402_300_800, 8.64e12, Number.MAX_SAFE_INTEGER])(
    'may have an end that no calendar knows: %i',
    (expiresAt) => {
      expect(entryRow(testEntry({ expiresAt }))['expiresAt']).toMatch(/^\+\d{6}-/);
    },
  );
});

const least = {
  spiffeId: 'spiffe://example.org/web',
  parentId: 'spiffe://example.org/spire/agent/a',
  selectors: ['unix:uid:1'],
};

describe('an entry document', () => {
  it('needs an ID, a parent and a selector; all else has a default', () => {
    expect(essenceOf(parseEntries(JSON.stringify(least), 'f'))).toEqual(
      essenceOf([testEntry({ id: '', ...least, parentId: SpiffeId.parse(least.parentId) })]),
    );
  });

  it('is YAML too, with comments', () => {
    const yaml = `# all of them
- spiffeId: ${least.spiffeId}
  parentId: ${least.parentId}
  selectors: [unix:uid:1, "docker:label:a:b"]
  x509SvidTtl: 90m
  expiresAt: 2027-01-31T13:00:00+01:00
`;
    expect(parseEntries(yaml, 'f')).toMatchObject([
      {
        x509SvidTtlSeconds: 5_400,
        expiresAt: Date.UTC(2027, 0, 31, 12) / 1000,
        selectors: [{}, { type: 'docker', value: 'label:a:b' }],
      },
    ]);
  });

  it('may be an empty list', () => {
    expect(parseEntries('[]', 'f')).toEqual([]);
  });

  const mistakes: readonly { name: string; text: string; says: string }[] = [
    { name: 'an empty file', text: '', says: 'e.yaml: [0]: expected a map' },
    { name: 'no YAML', text: '{', says: 'e.yaml: ' },
    { name: 'a key twice', text: '{"id":"a","id":"b"}', says: 'e.yaml: ' },
    {
      name: 'no parent',
      text: JSON.stringify({ ...least, parentId: undefined }),
      says: '[0].parentId: missing',
    },
    ...(
      [
        ['an unknown key', { selector: ['a:b'] }, '[1].selector: unknown key'],
        ['a SPIFFE ID without scheme', { spiffeId: 'example.org/web' }, '[1].spiffeId: invalid SPIFFE ID'],
        ['a parent in capitals', { parentId: 'spiffe://A/b' }, '[1].parentId: '],
        ['no selector', { selectors: [] }, '[1].selectors: expected at least one'],
        ['a selector without type', { selectors: ['a:b', 'uid'] }, '[1].selectors[1]: invalid selector'],
        ['a lifetime without unit', { x509SvidTtl: '90' }, '[1].x509SvidTtl: expected a duration'],
        ['a lifetime as number', { jwtSvidTtl: 90 }, '[1].jwtSvidTtl: expected a text'],
        ['a lifetime below a second', { x509SvidTtl: '500ms' }, '[1].x509SvidTtl: expected a duration'],
        ['a trust domain as path', { federatesWith: ['a/b'] }, '[1].federatesWith[0]: '],
        ['an end without offset', { expiresAt: '2027-01-31T12:00:00' }, '[1].expiresAt: expected a time'],
        ['an end on no day', { expiresAt: '2027-02-30T12:00:00Z' }, '[1].expiresAt: expected a time'],
        ['an end that means never', { expiresAt: '1970-01-01T00:00:00Z' }, '[1].expiresAt: expected a time'],
        ['a flag as text', { admin: 'yes' }, '[1].admin: expected true or false'],
      ] as const
    ).map(([name, change, path]) => ({
      name,
      text: JSON.stringify([least, { ...least, ...change }]),
      says: `e.yaml: ${path}`,
    })),
  ];
  it.each(mistakes)('with $name is refused with its path', ({ text, says }) => {
    expect(() => parseEntries(text, 'e.yaml')).toThrow(
      expect.objectContaining({ code: 'invalid-argument', message: expect.stringContaining(says) }),
    );
  });

  it('says all mistakes at once', () => {
    const text = JSON.stringify([
      { ...least, spiffeId: 'x' },
      { ...least, selectors: ['x'] },
    ]);
    expect(() => parseEntries(text, 'f')).toThrow(/\[0\]\.spiffeId.*\n.*\[1\]\.selectors\[0\]/);
  });
});

describe('a file that programs wrote', () => {
  const document = {
    spiffeId: 'spiffe://example.org/a',
    parentId: 'spiffe://example.org/b',
    selectors: ['a:b'],
  };

  it('may be YAML in its flow style', () => {
    const text =
      "[{spiffeId: 'spiffe://example.org/a', parentId: 'spiffe://example.org/b', selectors: ['a:b']}]";
    expect(parseEntries(text, 'f')).toEqual(parseEntries(JSON.stringify([document]), 'f'));
  });

  it.each([
    {
      name: 'a key twice',
      text: '[{"spiffeId": "a", "spiffeId": "b"}]',
      says: /f: key "spiffeId" occurs twice/,
    },
    { name: 'an end too early', text: '[{"spiffeId": "a"', says: /^f: .*line 1/ },
    { name: 'something else', text: '[1]', says: /^f: \[0\]: expected a map/ },
  ])('is refused with the place when it has $name', ({ text, says }) => {
    expect(() => parseEntries(text, 'f')).toThrow(says);
  });

  it('has a hundred thousand entries and is read soon', () => {
    const text = JSON.stringify(Array.from({ length: 100_000 }, () => document));
    const startedAt = performance.now();
    expect(parseEntries(text, 'f')).toHaveLength(100_000);
    // The YAML parser needs more than a minute for it.
    expect(performance.now() - startedAt).toBeLessThan(30_000);
  }, 60_000);
});
