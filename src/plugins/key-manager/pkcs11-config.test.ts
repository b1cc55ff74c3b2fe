import { describe, expect, it } from 'vitest';
import { parseConfig } from '../../runtime/config-file.ts';
import { pkcs11Config } from './pkcs11-config.ts';

const least = { module: '/usr/lib/hsm.so', tokenLabel: 'ca', pinFile: '/etc/signet/pin' };
const parse = (settings: object) => parseConfig({ ...least, ...settings }, pkcs11Config, 'keyManager.pkcs11');

describe('settings of the key manager pkcs11', () => {
  it('are few, the others have defaults', () => {
    expect(parse({})).toEqual({
      ...least,
      userType: 'user',
      sessions: 4,
      signTimeout: 10_000,
      queueLimit: 1_000,
    });
  });

  it.each<{ name: string; settings: object; says: string }>([
    { name: 'no token', settings: { tokenLabel: undefined }, says: 'exactly one of tokenLabel' },
    { name: 'two tokens', settings: { slot: 0 }, says: 'exactly one of tokenLabel' },
    { name: 'a relative module', settings: { module: 'hsm.so' }, says: 'absolute path' },
    { name: 'a relative PIN file', settings: { pinFile: 'pin' }, says: 'absolute path' },
    { name: 'a PIN itself', settings: { pin: '1234' }, says: 'unknown key' },
    { name: 'a prefix with a slash', settings: { keyLabelPrefix: 'a/b' }, says: 'letters' },
    { name: 'no session', settings: { sessions: 0 }, says: 'sessions' },
    { name: 'no queue', settings: { queueLimit: 0 }, says: 'queueLimit' },
    { name: 'no time', settings: { signTimeout: '10ms' }, says: 'at least 100ms' },
    { name: 'an unknown kind of user', settings: { userType: 'so' }, says: 'userType' },
  ])('are refused: $name', ({ settings, says }) => {
    expect(() => parse(settings)).toThrow(says);
  });
});
