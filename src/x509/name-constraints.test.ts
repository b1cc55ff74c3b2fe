import { describe, expect, it } from 'vitest';
import { isAppError } from '../runtime/error.ts';
import { contextTag, DerReader } from './der-reader.ts';
import { element, sequence, smallInteger } from './der-writer.ts';
import { readExtensions } from './extensions.ts';
import { findForbiddenName, nameConstraints, parseNameConstraints } from './name-constraints.ts';

type Subtrees = Parameters<typeof nameConstraints>[0];

function roundTrip(subtrees: Subtrees) {
  const extension = readExtensions(new DerReader(nameConstraints(subtrees))).get('2.5.29.30');
  if (extension === undefined) throw new Error('no nameConstraints');
  expect(extension.isCritical).toBe(true);
  return parseNameConstraints(extension.value);
}

function isForbidden(subtrees: Subtrees, names: { uris?: string[]; dnsNames?: string[] }): boolean {
  const { uris = [], dnsNames = [] } = names;
  const all = { uris, dnsNames, nameKinds: new Set<never>(), hasEmptySubject: true };
  return findForbiddenName(roundTrip(subtrees), all) !== undefined;
}

describe('URI constraints', () => {
  it.each([
    { base: 'a.test', uri: 'spiffe://a.test/w', matches: true },
    { base: 'a.test', uri: 'spiffe://A.TEST/w', matches: true },
    { base: 'A.test', uri: 'https://user@a.test:8443/w', matches: true },
    { base: 'a.test', uri: 'spiffe://x.a.test/w', matches: false },
    { base: 'a.test', uri: 'spiffe://b.test/a.test', matches: false },
    { base: 'a.test', uri: 'spiffe://a.test@b.test/', matches: false },
    { base: '.a.test', uri: 'spiffe://x.a.test/w', matches: true },
    { base: '.a.test', uri: 'spiffe://y.x.a.test', matches: true },
    { base: '.a.test', uri: 'spiffe://a.test/w', matches: false },
    { base: '.a.test', uri: 'spiffe://xa.test/w', matches: false },
  ])('"$base" and "$uri" match: $matches', ({ base, uri, matches }) => {
    expect(isForbidden({ permittedUris: [base] }, { uris: [uri] })).toBe(!matches);
    expect(isForbidden({ excludedUris: [base] }, { uris: [uri] })).toBe(matches);
  });

  it.each([
    { name: 'has no authority', uri: 'urn:a.test' },
    { name: 'has no host', uri: 'spiffe:///w' },
    { name: 'has an IPv4 address', uri: 'spiffe://192.0.2.1/w' },
    { name: 'has an IPv6 address', uri: 'https://[2001:db8::1]/w' },
    { name: 'has an encoded host', uri: 'spiffe://%61.test/w' },
    { name: 'has a host with a final dot', uri: 'spiffe://a.test./w' },
  ])('refuse a URI that $name, permitted or excluded', ({ uri }) => {
    expect(isForbidden({ permittedUris: ['a.test'] }, { uris: [uri] })).toBe(true);
    expect(isForbidden({ excludedUris: ['other.test'] }, { uris: [uri] })).toBe(true);
    expect(isForbidden({ permittedDnsNames: ['a.test'] }, { uris: [uri] })).toBe(false);
  });

  it('hold for every URI', () => {
    expect(isForbidden({ permittedUris: ['a.test'] }, { uris: ['spiffe://a.test', 'spiffe://b.test'] })).toBe(
      true,
    );
  });

  it('permit what any of several subtrees permits, unless one excludes it', () => {
    const subtrees = { permittedUris: ['a.test', '.b.test'], excludedUris: ['x.b.test'] };
    expect(isForbidden(subtrees, { uris: ['spiffe://a.test/', 'spiffe://y.b.test/'] })).toBe(false);
    expect(isForbidden(subtrees, { uris: ['spiffe://x.b.test/'] })).toBe(true);
  });
});

describe('DNS constraints', () => {
  it.each([
    { base: 'a.test', name: 'a.test', matches: true },
    { base: 'a.test', name: 'X.A.test', matches: true },
    { base: 'a.test', name: '*.a.test', matches: true },
    { base: 'a.test', name: 'xa.test', matches: false },
    { base: '.a.test', name: 'x.a.test', matches: true },
    { base: '.a.test', name: 'a.test', matches: false },
  ])('"$base" and "$name" match: $matches', ({ base, name, matches }) => {
    expect(isForbidden({ permittedDnsNames: [base] }, { dnsNames: [name] })).toBe(!matches);
    expect(isForbidden({ excludedDnsNames: [base] }, { dnsNames: [name] })).toBe(matches);
  });

  it('exclude a wildcard that would stand for an excluded name (CVE-2025-61727)', () => {
    expect(isForbidden({ excludedDnsNames: ['x.a.test'] }, { dnsNames: ['*.a.test'] })).toBe(true);
    expect(isForbidden({ permittedDnsNames: ['x.a.test'] }, { dnsNames: ['*.a.test'] })).toBe(true);
    expect(isForbidden({ excludedDnsNames: ['x.b.test'] }, { dnsNames: ['*.a.test'] })).toBe(false);
  });

  it.each(['a.test.', 'a..test', 'x*.a.test', 'a.test\\', ' a.test'])(
    'refuse "%s", which has no one meaning',
    (name) => {
      expect(isForbidden({ excludedDnsNames: ['b.test'] }, { dnsNames: [name] })).toBe(true);
    },
  );
});

describe('constraints', () => {
  it('refuse a certificate with more names than can be compared in time', () => {
    const hosts = (count: number): string[] => Array.from({ length: count }, (_, i) => `h${i}.test`);
    expect(isForbidden({ excludedDnsNames: hosts(2000) }, { dnsNames: ['a.example'] })).toBe(false);
    expect(isForbidden({ excludedDnsNames: hosts(2000) }, { dnsNames: Array(100).fill('a.example') })).toBe(
      true,
    );
  });
});

describe('constraints on other kinds of name', () => {
  const directory = sequence(
    element(contextTag(0, true), sequence(element(contextTag(4, true), sequence()))),
  );
  const address = sequence(element(contextTag(1, true), sequence(element(contextTag(7), Buffer.alloc(8)))));
  const none = { uris: [], dnsNames: [], nameKinds: new Set<never>(), hasEmptySubject: true };

  it('refuse certificates that have such a name, and no others', () => {
    const onAddresses = parseNameConstraints(address);
    expect(findForbiddenName(onAddresses, none)).toBeUndefined();
    expect(findForbiddenName(onAddresses, { ...none, nameKinds: new Set(['iPAddress'] as const) })).toContain(
      'iPAddress',
    );
  });

  it('take a subject for a directory name', () => {
    const onDirectories = parseNameConstraints(directory);
    expect(findForbiddenName(onDirectories, none)).toBeUndefined();
    expect(findForbiddenName(onDirectories, { ...none, hasEmptySubject: false })).toContain('directoryName');
  });
});

describe('parseNameConstraints', () => {
  const base = element(contextTag(2), Buffer.from('a.test'));
  it.each([
    { name: 'no subtrees at all', der: sequence() },
    { name: 'an empty list', der: sequence(element(contextTag(0, true))) },
    { name: 'a minimum', der: sequence(element(contextTag(0, true), sequence(base, smallInteger(1)))) },
    {
      name: 'an empty list besides a full one',
      der: sequence(element(contextTag(0, true)), element(contextTag(1, true), sequence(base))),
    },
    {
      name: 'lists in the wrong order',
      der: sequence(
        element(contextTag(1, true), sequence(base)),
        element(contextTag(0, true), sequence(base)),
      ),
    },
    { name: 'a base that is no name', der: sequence(element(contextTag(0, true), sequence(sequence()))) },
    {
      name: 'a base with a NUL',
      der: sequence(element(contextTag(0, true), sequence(element(contextTag(2), Buffer.of(0))))),
    },
  ])('refuses $name', ({ der }) => {
    expect(() => parseNameConstraints(der)).toThrow(
      expect.toSatisfy((e) => isAppError(e, 'invalid-argument')),
    );
  });
});
