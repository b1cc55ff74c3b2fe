import { describe, expect, it } from 'vitest';
import { isAppError } from '../../runtime/error.ts';
import type { NewEntry } from '../../spiffe/registration-entry.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { checkDnsName, checkEntry } from './entry-rules.ts';

const trustDomain = TrustDomain.parse('example.org');
const other = TrustDomain.parse('other.org');
const id = (path: string) => SpiffeId.of(trustDomain, path);
const manySelectors = (count: number) =>
  Array.from({ length: count }, (_, i) => ({ type: 'unix', value: `uid:${i}` }));

function problemOf(changes: Partial<NewEntry>): string | undefined {
  try {
    checkEntry({ ...testEntry(), ...changes }, trustDomain);
    return undefined;
  } catch (error) {
    if (!isAppError(error, 'invalid-argument')) throw error;
    return error.message;
  }
}

describe('an entry', () => {
  it.each<{ name: string; changes: Partial<NewEntry> }>([
    { name: 'as plain as can be', changes: {} },
    { name: 'with an id of 255 characters', changes: { id: 'a'.repeat(255) } },
    { name: 'with every kind of character in its id', changes: { id: '-._0-9A-Za-z' } },
    { name: 'below the server, a node alias', changes: { parentId: id('/spire/server') } },
    { name: 'below another entry', changes: { parentId: id('/node') } },
    { name: 'with 256 selectors', changes: { selectors: manySelectors(256) } },
    { name: 'with the longest lifetimes', changes: { x509SvidTtlSeconds: 2_147_483_647 } },
    { name: 'with an end', changes: { expiresAt: 4_102_444_800 } },
    { name: 'that has ended', changes: { expiresAt: 1 } },
    { name: 'with a hint of 1024 bytes', changes: { hint: 'é'.repeat(512) } },
    { name: 'with DNS names', changes: { dnsNames: ['web', 'a.example.org', '*.example.org', '_x.y'] } },
    { name: 'with 128 DNS names', changes: { dnsNames: Array.from({ length: 128 }, (_, i) => `h${i}`) } },
    { name: 'whose path only begins like the reserved one', changes: { spiffeId: id('/spire-web') } },
  ])('$name is accepted', ({ changes }) => {
    expect(problemOf(changes)).toBeUndefined();
  });

  it.each<{ name: string; changes: Partial<NewEntry>; says: RegExp }>([
    { name: 'without an id', changes: { id: '' }, says: /entry id/ },
    { name: 'with an id of 256 characters', changes: { id: 'a'.repeat(256) }, says: /entry id/ },
    { name: 'with a slash in its id', changes: { id: 'a/b' }, says: /entry id/ },
    { name: 'with a line break at the end of its id', changes: { id: 'a\n' }, says: /entry id/ },
    {
      name: 'of another trust domain',
      changes: { spiffeId: SpiffeId.of(other, '/a') },
      says: /^invalid spiffe ID: "spiffe:\/\/other.org\/a" is not a member of trust domain "example.org"$/,
    },
    {
      name: 'for the trust domain itself',
      changes: { spiffeId: id('') },
      says: /^invalid spiffe ID: .*; path is empty/,
    },
    { name: 'for the server', changes: { spiffeId: id('/spire/server') }, says: /reserved/ },
    { name: 'for an agent', changes: { spiffeId: id('/spire/agent/x') }, says: /reserved/ },
    { name: 'for the reserved path itself', changes: { spiffeId: id('/spire') }, says: /reserved/ },
    {
      name: 'with a parent elsewhere',
      changes: { parentId: SpiffeId.of(other, '/a') },
      says: /^invalid parent ID: .* is not a member/,
    },
    {
      name: 'with the trust domain as parent',
      changes: { parentId: id('') },
      says: /^invalid parent ID: .*; path is empty/,
    },
    { name: 'that is its own parent', changes: { parentId: id('/workload') }, says: /own parent/ },
    { name: 'without selectors', changes: { selectors: [] }, says: /^selector list is empty/ },
    {
      name: 'with 257 selectors',
      changes: { selectors: manySelectors(257) },
      says: /more than 256 selectors/,
    },
    { name: 'with a negative X.509 lifetime', changes: { x509SvidTtlSeconds: -1 }, says: /x509 svid ttl/ },
    {
      name: 'with a lifetime that is too long',
      changes: { x509SvidTtlSeconds: 2_147_483_648 },
      says: /x509/,
    },
    { name: 'with half a second of JWT lifetime', changes: { jwtSvidTtlSeconds: 0.5 }, says: /jwt svid ttl/ },
    {
      name: 'with a lifetime that is no number',
      changes: { jwtSvidTtlSeconds: Number.NaN },
      says: /jwt svid ttl/,
    },
    {
      name: 'to be stored elsewhere with selectors of several kinds',
      changes: {
        storeSvid: true,
        selectors: [
          { type: 'a', value: '1' },
          { type: 'b', value: '1' },
        ],
      },
      says: /selector types must be the same/,
    },
    { name: 'with an end before 1970', changes: { expiresAt: -1 }, says: /expiry/ },
    { name: 'with an end beyond counting', changes: { expiresAt: 2 ** 53 }, says: /expiry/ },
    {
      name: 'with 129 DNS names',
      changes: { dnsNames: Array.from({ length: 129 }, () => 'a') },
      says: /128 dns/,
    },
    { name: 'with one bad DNS name among good ones', changes: { dnsNames: ['a', 'b c'] }, says: /"b c"/ },
    { name: 'with a hint of 1025 bytes', changes: { hint: `a${'é'.repeat(512)}` }, says: /hint/ },
    {
      name: 'that federates with its own trust domain',
      changes: { federatesWith: [trustDomain] },
      says: /own/,
    },
    {
      name: 'that federates with 129 trust domains',
      changes: { federatesWith: Array.from({ length: 129 }, () => other) },
      says: /128 trust domains/,
    },
  ])('$name is refused', ({ changes, says }) => {
    expect(problemOf(changes)).toMatch(says);
  });
});

describe('a DNS name', () => {
  const label = 'a'.repeat(63);

  it.each(['web', 'WEB', '1a', 'a-b.c', 'xn--bcher-kva.example', '*.example.org', `${label}.${label}`])(
    '"%s" is accepted',
    (name) => expect(checkDnsName(name)).toBeUndefined(),
  );

  it.each([
    '',
    '.',
    '*',
    '*.',
    'a.',
    '.a',
    'a..b',
    '-a',
    'a-',
    'a b',
    'a\n',
    'a\0b',
    'bücher',
    'a.*.b',
    'w*.example.org',
    '**.example.org',
    'spiffe://example.org/a',
    'a'.repeat(64),
    `${`${label}.`.repeat(4)}a`,
  ])('%j is refused', (name) => expect(checkDnsName(name)).toMatch(/is not a host name/));
});
