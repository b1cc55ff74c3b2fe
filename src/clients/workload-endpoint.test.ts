import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { findWorkloadEndpoint, parseWorkloadEndpoint } from './workload-endpoint.ts';

const invalid = expect.objectContaining({ code: 'invalid-argument' });

describe('the address of a Workload Endpoint', () => {
  it.each([
    { text: 'unix:///run/api.sock', endpoint: { unix: '/run/api.sock' } },
    { text: 'unix:/run/api.sock', endpoint: { unix: '/run/api.sock' } },
    { text: 'unix:///run/a%20b%3fc.sock', endpoint: { unix: '/run/a b?c.sock' } },
    { text: 'tcp://127.0.0.1:8000', endpoint: { tcp: '127.0.0.1:8000' } },
    { text: 'tcp://[::1]:8000', endpoint: { tcp: '[::1]:8000' } },
  ])('is understood: $text', ({ text, endpoint }) => {
    expect(parseWorkloadEndpoint(text)).toEqual(endpoint);
  });

  it.each([
    '',
    'blah',
    '/run/api.sock',
    'http://x',
    'npipe:x',
    'UNIX:///run/api.sock',
    'unix',
    'unix:',
    'unix://',
    'unix:///',
    'unix:a.sock',
    'unix://host/a',
    'unix://u@/a',
    'unix:///a?x',
    'unix:///a#x',
    'unix:///a%zz',
    'unix:///a%00b',
    'tcp:',
    'tcp://',
    'tcp://host:80',
    'tcp://1.2.3.4',
    'tcp://1.2.3.4:0',
    'tcp://1.2.3.4:65536',
    'tcp://1.2.3:80',
    'tcp://1.2.3.4:5/p',
    'tcp://1.2.3.4:5?q',
    'tcp://1.2.3.4:5#f',
    'tcp://u@1.2.3.4:5',
    'tcp://::1:80',
    'tcp://[1.2.3.4]:80',
    'tcp:127.0.0.1:80',
  ])('is refused: "%s"', (text) => {
    expect(() => parseWorkloadEndpoint(text)).toThrow(invalid);
  });

  it('is understood or refused, whatever it is', () => {
    const texts = fc.oneof(
      fc.string(),
      fc.string().map((rest) => `unix:${rest}`),
      fc.string().map((rest) => `tcp://${rest}`),
    );
    fc.assert(
      fc.property(texts, (text) => {
        try {
          const endpoint = parseWorkloadEndpoint(text);
          expect('unix' in endpoint ? endpoint.unix[0] : endpoint.tcp.includes(':')).toEqual(
            'unix' in endpoint ? '/' : true,
          );
        } catch (error) {
          expect(error).toEqual(invalid);
        }
      }),
    );
  });
});

describe('which address counts', () => {
  const environment = { SPIFFE_ENDPOINT_SOCKET: 'unix:///from/environment' };

  it('is the given one before that of the environment', () => {
    expect(findWorkloadEndpoint('unix:///given', environment)).toEqual({ unix: '/given' });
    expect(findWorkloadEndpoint(undefined, environment)).toEqual({ unix: '/from/environment' });
  });

  it.each([{}, { SPIFFE_ENDPOINT_SOCKET: '' }])('must be said: %j', (nothing) => {
    expect(() => findWorkloadEndpoint(undefined, nothing)).toThrow(invalid);
  });
});
