import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { AgentPathTemplate } from './agent-path-template.ts';

const trustDomain = TrustDomain.parse('example.org');
const names = ['PluginName', 'TrustDomain', 'Fingerprint', 'Subject.CommonName', 'URISanSelectors.rack-1'];
const parse = (text: string) => AgentPathTemplate.parse(text, (name) => names.includes(name));
const render = (text: string, values: Readonly<Record<string, string>>) =>
  parse(text).render({ find: (name) => values[name] });

describe('an agent path template', () => {
  it.each([
    { text: '/{{ .PluginName }}/{{ .Fingerprint }}', path: '/spire/agent/x509pop/0aff' },
    { text: '/cn/{{.Subject.CommonName}}', path: '/spire/agent/cn/web-1.test' },
    { text: '/a/b/{{  .URISanSelectors.rack-1  }}.{{ .Fingerprint }}/c', path: '/spire/agent/a/b/7.0aff/c' },
    { text: '/{{ .TrustDomain }}-x/{{ .Fingerprint }}', path: '/spire/agent/example.org-x/0aff' },
  ])('makes $path of $text', ({ text, path }) => {
    const values = {
      PluginName: 'x509pop',
      TrustDomain: 'example.org',
      Fingerprint: '0aff',
      'Subject.CommonName': 'web-1.test',
      'URISanSelectors.rack-1': '7',
    };
    expect(render(text, values)).toBe(path);
  });

  it.each([
    { text: '', says: 'start with "/"' },
    { text: 'x509pop/{{ .Fingerprint }}', says: 'start with "/"' },
    { text: '/x/{{ .Fingerprint', says: 'do not match' },
    { text: '/x/.Fingerprint }}', says: 'do not match' },
    { text: '/x/{{ {{ .Fingerprint }} }}', says: 'do not match' },
    { text: '/x/{{ .Fingerprint }}}}', says: 'do not match' },
    { text: '/x/{{ .Figerprint }}', says: 'unknown variable ".Figerprint"' },
    { text: '/x/{{ .URISanSelectors }}', says: 'unknown variable' },
    { text: '/x/{{ Fingerprint }}', says: 'without functions' },
    { text: '/x/{{ .Fingerprint | lower }}', says: 'without functions' },
    { text: '/x/{{- .Fingerprint -}}', says: 'without functions' },
    { text: '/x/{{ }}', says: 'without functions' },
    { text: '/x/{{ if .Fingerprint }}a{{ end }}', says: 'without functions' },
    { text: '/x/y', says: 'tells them apart' },
    { text: '/{{ .PluginName }}/{{ .TrustDomain }}', says: 'tells them apart' },
    { text: '/{{ .Fingerprint }}', says: 'the same for all agents' },
    { text: '/x-{{ .Fingerprint }}/y', says: 'the same for all agents' },
    { text: '/x/{{ .Fingerprint }}/', says: 'end with "/"' },
    { text: '/x//{{ .Fingerprint }}', says: 'empty segments' },
    { text: '//{{ .Fingerprint }}', says: 'empty segments' },
    { text: '/x/../{{ .Fingerprint }}', says: '".."' },
    { text: '/x/ä{{ .Fingerprint }}', says: 'characters are limited' },
    { text: `/x/{{ .Fingerprint }}${'x'.repeat(1024)}`, says: 'longer than 1024' },
  ])('cannot be $text', ({ text, says }) => {
    expect(() => parse(text)).toThrow(
      expect.objectContaining({ code: 'invalid-argument', message: expect.stringContaining(says) }),
    );
  });

  it.each([
    'a/b',
    '../x',
    '..',
    '.',
    '',
    '/',
    'a b',
    'ä',
    'a\n',
    'a%2fb',
    '{{ .Fingerprint }}',
    'a\0',
    '.hidden',
  ])('takes no value like %j into a path', (value) => {
    expect(() => render('/x/{{ .Fingerprint }}', { Fingerprint: value })).toThrow(
      expect.objectContaining({ code: 'permission-denied' }),
    );
  });

  it('refuses a node that has no such value', () => {
    expect(() => render('/cn/{{ .Subject.CommonName }}', {})).toThrow(
      'the certificate has no Subject.CommonName',
    );
  });

  it('gives, with any text and any value, a valid path of one shape or an error', () => {
    const piece = fc.constantFrom(
      '/',
      'x',
      '{{',
      '}}',
      ' ',
      '.',
      '..',
      ...names.map((n) => `{{ .${n} }}`),
      '|',
    );
    const template = fc.array(piece, { maxLength: 8 }).map((pieces) => `/${pieces.join('')}`);
    const value = fc.oneof(fc.string({ maxLength: 5 }), fc.constantFrom('a/b', '..', 'ok'));
    fc.assert(
      fc.property(template, value, (text, text2) => {
        try {
          const path = parse(text).render({ find: () => text2 });
          expect(SpiffeId.of(trustDomain, path).path).toBe(path);
          expect(path.split('/')).toHaveLength(text.split('/').length + 2);
        } catch (error) {
          expect(['invalid-argument', 'permission-denied']).toContain((error as { code?: string }).code);
        }
      }),
      { numRuns: 1000 },
    );
  });
});
