import { describe, expect, it } from 'vitest';
import { findHostPort } from './host-port.ts';

describe('an address', () => {
  it.each([
    { text: 'signet.internal:8081', host: 'signet.internal', port: 8081 },
    { text: '127.0.0.1:0', host: '127.0.0.1', port: 0 },
    { text: '[::1]:65535', host: '::1', port: 65_535 },
  ])('is host and port: $text', ({ text, host, port }) => {
    expect(findHostPort(text)).toEqual({ host, port });
  });

  it.each([
    '',
    '8081',
    'a',
    'a:',
    ':1',
    'a:65536',
    'a:-1',
    'a:1 ',
    '::1:80',
    '[127.0.0.1]:80',
    '[::1]',
    'http://a:1',
    'a/b:1',
  ])('is none: %j', (text) => {
    expect(findHostPort(text)).toBeUndefined();
  });
});
