import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isAppError } from '../../runtime/error.ts';
import { carriesPrivateKey, checkSdsNames, defaultSdsNames, parseSecretName } from './sds-names.ts';

describe('a secret name', () => {
  test.each([
    { name: 'default', kind: 'default-svid', key: true },
    { name: 'ROOTCA', kind: 'own-bundle', key: false },
    { name: 'ALL', kind: 'all-bundles', key: false },
    { name: 'spiffe://example.org', kind: 'bundle', key: false },
    { name: 'spiffe://example.org/web', kind: 'svid', key: true },
    { name: 'spiffe://example.org/', kind: undefined, key: false },
    { name: 'spiffe://Example.org/web', kind: undefined, key: false },
    { name: 'SPIFFE://example.org/web', kind: undefined, key: false },
    { name: 'Default', kind: undefined, key: false },
    { name: 'file-root:system', kind: undefined, key: false },
    { name: 'kubernetes://tls', kind: undefined, key: false },
    { name: '', kind: undefined, key: false },
  ])('"$name" stands for $kind', ({ name, kind, key }) => {
    expect(parseSecretName(name, defaultSdsNames)?.kind).toBe(kind);
    expect(carriesPrivateKey(name, defaultSdsNames)).toBe(key);
  });

  test('never is parsed into an identity other than the text itself', () => {
    const part = fc.constantFrom(
      'spiffe://',
      'a',
      'Z',
      '/',
      '.',
      '..',
      ':',
      '@',
      '?',
      '#',
      '%2f',
      ' ',
      '\u0000',
      'é',
    );
    fc.assert(
      fc.property(fc.array(part, { maxLength: 8 }), (parts) => {
        const name = `spiffe://${parts.join('')}`;
        const parsed = parseSecretName(name, defaultSdsNames);
        return parsed?.kind !== 'svid' || parsed.id === name;
      }),
      { numRuns: 1_000 },
    );
  });

  test('can be configured', () => {
    const names = { defaultSvid: 'cert', ownBundle: 'root', allBundles: 'roots' };
    expect(['cert', 'root', 'roots', 'default'].map((name) => parseSecretName(name, names)?.kind)).toEqual([
      'default-svid',
      'own-bundle',
      'all-bundles',
      undefined,
    ]);
  });
});

describe('configured names are refused when', () => {
  test.each([
    { name: 'two are equal', names: { ownBundle: 'default' } },
    { name: 'one is empty', names: { allBundles: '' } },
    { name: 'one is a SPIFFE ID', names: { defaultSvid: 'spiffe://example.org/web' } },
    { name: 'one looks like a SPIFFE ID', names: { defaultSvid: 'SPIFFE://x' } },
    { name: 'one is of another kind of secret', names: { ownBundle: 'jwt:aud' } },
    { name: 'one has the mark of a variant', names: { defaultSvid: 'default?key=rsa' } },
  ])('$name', ({ names }) => {
    let thrown: unknown;
    try {
      checkSdsNames({ ...defaultSdsNames, ...names });
    } catch (error) {
      thrown = error;
    }
    expect(isAppError(thrown, 'invalid-argument')).toBe(true);
  });

  test('none of the defaults is', () => {
    expect(checkSdsNames(defaultSdsNames)).toBe(defaultSdsNames);
  });
});
