import { describe, expect, it } from 'vitest';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { changesCertificates, heldCertificates } from './running-envoy.ts';

const nowMs = Date.UTC(2026, 0, 1);
const lasting = (...seconds: number[]) => seconds.map((x509SvidTtlSeconds) => ({ x509SvidTtlSeconds }));

describe('what becomes of issued certificates', () => {
  it.each([
    { name: 'is known from the lifetime', entries: lasting(1800), latest: '2026-01-01T00:30:00.000Z' },
    { name: 'is the longest of several', entries: lasting(60, 3600), latest: '2026-01-01T01:00:00.000Z' },
    {
      name: 'is for the server to say when it is the default',
      entries: lasting(60, 0),
      latest: 'one lifetime',
    },
    { name: 'is for the server to say when nothing is known', entries: [], latest: 'one lifetime' },
  ])('$name', ({ entries, latest }) => {
    expect(heldCertificates(entries, nowMs)).toContain(`until that expires: at the latest ${latest}`);
  });

  it.each([
    { name: 'another selector', change: { selectors: ['unix:uid:2'] }, expected: true },
    {
      name: 'another parent',
      change: { parentId: SpiffeId.parse('spiffe://example.org/n') },
      expected: true,
    },
    { name: 'another SPIFFE ID', change: { spiffeId: 'spiffe://example.org/b' }, expected: true },
    { name: 'another DNS name', change: { dnsNames: ['web'] }, expected: true },
    { name: 'another lifetime', change: { x509SvidTtlSeconds: 60 }, expected: true },
    { name: 'another hint', change: { hint: 'b' }, expected: false },
    { name: 'nothing', change: { revision: 1 }, expected: false },
  ])('is said after a change of $name: $expected', ({ change, expected }) => {
    expect(changesCertificates(testEntry(), testEntry(change))).toBe(expected);
  });
});
