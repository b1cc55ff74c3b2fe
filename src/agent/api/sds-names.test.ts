import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { AppError } from '../../runtime/error.ts';
import { keyTypes } from '../../x509/signature.ts';
import {
  defaultSdsNames,
  isCertificateName,
  parseSdsNames,
  parseSecretName,
  type SdsNameSettings,
  type SdsNames,
  wantedKeyTypes,
} from './sds-names.ts';

const spireNames = { defaultSvid: 'default', ownBundle: 'ROOTCA', allBundles: 'ALL' };

function settings(changes: Partial<SdsNameSettings> = {}): SdsNameSettings {
  return { names: spireNames, aliases: {}, fileRoots: {}, ...changes };
}

const configured = parseSdsNames(
  settings({
    aliases: {
      'web-cert': 'spiffe://example.org/web',
      'partner-roots': 'spiffe://partner.example',
      'kubernetes://web': 'spiffe://example.org/web',
      constructor: 'spiffe://example.org/web',
    },
    fileRoots: { 'file-root:system': '/etc/ssl/certs/ca-certificates.crt' },
  }),
);

function carriesPrivateKey(name: string, names: SdsNames): boolean {
  const meaning = parseSecretName(name, names);
  return meaning !== undefined && isCertificateName(meaning);
}

describe('a secret name', () => {
  const svid = (keyType?: string) => ({
    kind: 'svid',
    id: 'spiffe://example.org/web',
    ...(keyType && { keyType }),
  });
  test.each([
    { name: 'default', meaning: { kind: 'default-svid' } },
    { name: 'ROOTCA', meaning: { kind: 'own-bundle' } },
    { name: 'ALL', meaning: { kind: 'all-bundles' } },
    { name: 'spiffe://example.org', meaning: { kind: 'bundle', trustDomain: { name: 'example.org' } } },
    { name: 'spiffe://example.org/web', meaning: svid() },
    { name: 'web-cert', meaning: svid() },
    { name: 'kubernetes://web', meaning: svid() },
    { name: 'constructor', meaning: svid() },
    { name: 'partner-roots', meaning: { kind: 'bundle', trustDomain: { name: 'partner.example' } } },
    { name: 'hint:internal', meaning: { kind: 'hint', hint: 'internal' } },
    { name: 'hint:a:b c', meaning: { kind: 'hint', hint: 'a:b c' } },
    { name: 'default?key=ec-p384', meaning: { kind: 'default-svid', keyType: 'ec-p384' } },
    { name: 'spiffe://example.org/web?key=rsa-2048', meaning: svid('rsa-2048') },
    { name: 'web-cert?key=rsa-4096', meaning: svid('rsa-4096') },
    { name: 'hint:internal?key=ec-p256', meaning: { kind: 'hint', hint: 'internal', keyType: 'ec-p256' } },
    {
      name: 'file-root:system',
      meaning: { kind: 'file-root', path: '/etc/ssl/certs/ca-certificates.crt' },
    },
  ])('"$name" stands for $meaning.kind', ({ name, meaning }) => {
    expect(parseSecretName(name, configured)).toMatchObject(meaning);
    const isCertificate = ['svid', 'default-svid', 'hint'].includes(meaning.kind);
    expect(carriesPrivateKey(name, configured)).toBe(isCertificate);
  });

  test.each([
    { name: '' },
    { name: '*' },
    { name: 'Default' },
    { name: 'toString' },
    { name: '__proto__' },
    { name: 'spiffe://example.org/' },
    { name: 'spiffe://Example.org/web' },
    { name: 'SPIFFE://example.org/web' },
    { name: 'kubernetes://tls' },
    { name: 'file-root:/etc/shadow' },
    { name: 'file-root:system?key=ec-p256' },
    { name: 'file-cert:/etc/a~/etc/b' },
    { name: 'hint:' },
    { name: 'hint:?key=ec-p256' },
    { name: 'Hint:internal' },
    { name: 'hint:internal?' },
    { name: 'jwt:audience' },
    { name: 'jwks:example.org' },
    { name: 'peers:web' },
    { name: 'ROOTCA?key=ec-p256' },
    { name: 'ALL?key=ec-p256' },
    { name: 'spiffe://example.org?key=ec-p256' },
    { name: 'partner-roots?key=ec-p256' },
    { name: 'default?' },
    { name: 'default?key=' },
    { name: 'default?key=dsa' },
    { name: 'default?key=EC-P384' },
    { name: 'default?key=ec-p384?key=ec-p384' },
    { name: 'default?key=ec-p384&key=rsa-2048' },
    { name: 'default?KEY=ec-p384' },
    { name: '?key=ec-p384' },
    { name: 'default ?key=ec-p384' },
    { name: 'default%3Fkey=ec-p384' },
  ])('"$name" stands for nothing', ({ name }) => {
    expect(parseSecretName(name, configured)).toBeUndefined();
    expect(carriesPrivateKey(name, configured)).toBe(false);
  });

  const part = fc.constantFrom(
    ...[
      'spiffe://',
      'example.org',
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
      '*',
    ],
    ...['hint:', 'default', 'web-cert', 'ROOTCA', '?key=', 'ec-p384', 'rsa-2048', 'file-root:', 'system'],
  );
  const name = fc.array(part, { maxLength: 8 }).map((parts) => parts.join(''));

  test('never stands for an identity other than the one it spells', () => {
    fc.assert(
      fc.property(name, (text) => {
        const meaning = parseSecretName(text, defaultSdsNames);
        if (meaning?.kind !== 'svid' && meaning?.kind !== 'hint') return true;
        const base = meaning.kind === 'svid' ? meaning.id : `hint:${meaning.hint}`;
        return text === (meaning.keyType === undefined ? base : `${base}?key=${meaning.keyType}`);
      }),
      { numRuns: 2_000 },
    );
  });

  test('stands for a certificate with every kind of key exactly when it stands for one without', () => {
    fc.assert(
      fc.property(name, fc.constantFrom(...keyTypes), (text, keyType) => {
        fc.pre(!text.includes('?'));
        return (
          carriesPrivateKey(text, configured) === carriesPrivateKey(`${text}?key=${keyType}`, configured)
        );
      }),
    );
  });
});

test('of the names asked for, those that want a kind of key are found', () => {
  const asked = [
    'default',
    'ROOTCA',
    'nothing?key=rsa-2048',
    'web-cert?key=rsa-2048',
    'default?key=ec-p384',
    '?',
  ];
  expect(wantedKeyTypes(asked, configured)).toEqual([
    { kind: 'svid', id: 'spiffe://example.org/web', keyType: 'rsa-2048' },
    { kind: 'default-svid', keyType: 'ec-p384' },
  ]);
});

test('the names of SPIRE can be replaced', () => {
  const names = parseSdsNames(
    settings({ names: { defaultSvid: 'cert', ownBundle: 'root', allBundles: 'roots' } }),
  );
  expect(['cert', 'root', 'roots', 'default'].map((name) => parseSecretName(name, names)?.kind)).toEqual([
    'default-svid',
    'own-bundle',
    'all-bundles',
    undefined,
  ]);
});

describe('configured names are refused, with the path of the setting, when', () => {
  const web = 'spiffe://example.org/web';
  const names = (changes: Partial<typeof spireNames>) => ({ names: { ...spireNames, ...changes } });
  const alias = (name: string, target = web) => ({ aliases: { [name]: target } });
  const files = (name: string, path = '/etc/roots.pem') => ({ fileRoots: { [name]: path } });
  test.each([
    { name: 'two are equal', changes: names({ ownBundle: 'default' }), at: 'sds.names.ownBundle' },
    { name: 'one is empty', changes: names({ allBundles: '' }), at: 'sds.names.allBundles' },
    { name: 'one is a SPIFFE ID', changes: names({ defaultSvid: web }), at: 'sds.names.defaultSvid' },
    {
      name: 'one looks like one',
      changes: names({ defaultSvid: 'SPIFFE://x' }),
      at: 'sds.names.defaultSvid',
    },
    { name: 'one is of another kind', changes: names({ ownBundle: 'jwt:aud' }), at: 'sds.names.ownBundle' },
    {
      name: 'one is a variant',
      changes: names({ defaultSvid: 'a?key=ec-p384' }),
      at: 'sds.names.defaultSvid',
    },
    { name: 'one is the wildcard', changes: names({ allBundles: '*' }), at: 'sds.names.allBundles' },
    { name: 'an alias is empty', changes: alias(''), at: 'sds.aliases.""' },
    { name: 'an alias is the wildcard', changes: alias('*'), at: 'sds.aliases."*"' },
    { name: 'an alias has a wildcard', changes: alias('web*'), at: 'sds.aliases."web*"' },
    { name: 'an alias has a "?"', changes: alias('web?key=ec-p384'), at: 'sds.aliases."web?key=ec-p384"' },
    { name: 'an alias breaks the line', changes: alias('a\nb'), at: 'sds.aliases."a\\u{a}b"' },
    { name: 'an alias turns the text', changes: alias('a\u202eb'), at: 'sds.aliases.' },
    { name: 'an alias is too long', changes: alias('a'.repeat(2_049)), at: 'sds.aliases.' },
    { name: 'an alias is a name of SPIRE', changes: alias('ROOTCA'), at: 'sds.aliases."ROOTCA"' },
    {
      name: 'an alias is a name of SPIRE that is not in use',
      changes: { ...names({ defaultSvid: 'cert' }), ...alias('default') },
      at: 'sds.aliases."default"',
    },
    {
      name: 'an alias is a configured name',
      changes: { ...names({ defaultSvid: 'cert' }), ...alias('cert') },
      at: 'sds.aliases."cert"',
    },
    ...['spiffe://example.org/a', 'hint:a', 'jwt:a', 'jwks:a', 'peers:a', 'file-root:a', 'FILE-CERT:a'].map(
      (name) => ({ name: `an alias is "${name}"`, changes: alias(name), at: `sds.aliases."${name}"` }),
    ),
    { name: 'an alias stands for another', changes: alias('a', 'default'), at: 'sds.aliases."a"' },
    { name: 'an alias stands for nothing', changes: alias('a', ''), at: 'sds.aliases."a"' },
    { name: 'an alias stands for a hint', changes: alias('a', 'hint:b'), at: 'sds.aliases."a"' },
    { name: 'an alias has a kind of key', changes: alias('a', `${web}?key=ec-p384`), at: 'sds.aliases."a"' },
    { name: 'an alias stands for a broken ID', changes: alias('a', `${web}/`), at: 'sds.aliases."a"' },
    { name: 'a file has another prefix', changes: files('system'), at: 'sds.fileRoots."system"' },
    { name: 'a file has no name', changes: files('file-root:'), at: 'sds.fileRoots."file-root:"' },
    { name: 'a file has a "?"', changes: files('file-root:a?'), at: 'sds.fileRoots."file-root:a?"' },
    { name: 'a file has a wildcard', changes: files('file-root:*'), at: 'sds.fileRoots."file-root:*"' },
    {
      name: 'a file is not absolute',
      changes: files('file-root:a', 'a.pem'),
      at: 'sds.fileRoots."file-root:a"',
    },
  ])('$name', ({ changes, at }) => {
    expect(() => parseSdsNames(settings(changes))).toThrow(
      expect.objectContaining({ code: 'invalid-argument', message: expect.stringContaining(`${at}`) }),
    );
    expect(() => parseSdsNames(settings(changes))).toThrow(AppError);
  });

  test('the text of the error has one line and is short, whatever the name is', () => {
    const tries = [alias('\n\u001b[2J\u202e'.repeat(1_000)), alias('a', '\u001b[2J\n'.repeat(1_000))];
    for (const changes of tries) {
      expect(() => parseSdsNames(settings(changes))).toThrow(
        expect.objectContaining({
          message: expect.toSatisfy((text: string) => /^[ -~…]{1,700}$/u.test(text)),
        }),
      );
    }
  });
});
