import { describe, expect, it } from 'vitest';
import { startNode } from '../../testing/child-process.ts';
import { TokenFault } from './pkcs11-faults.ts';
import { faultOf, unpadded } from './pkcs11-module.ts';

it('says what to install when the native package is missing', async () => {
  const url = JSON.stringify(new URL('./pkcs11-module.ts', import.meta.url).href);
  const child = startNode(`
    import { registerHooks } from 'node:module';
    registerHooks({
      resolve(specifier, context, next) {
        if (specifier === 'pkcs11js') throw new Error("Cannot find package 'pkcs11js'");
        return next(specifier, context);
      },
    });
    const { TokenModule } = await import(${url});
    console.log(await TokenModule.load('/no/such/module.so').catch((error) => error.message));
  `);
  expect(await child.nextLine()).toBe(
    'the package "pkcs11js" is not installed or not built for this Node.js; run: npm install pkcs11js ' +
      "(which takes a C++ compiler, make and python3): Cannot find package 'pkcs11js'",
  );
});

describe('what a module throws', () => {
  const thrown = (message: string, stack = '') => Object.assign(new Error(message), { stack });
  it.each([
    { error: thrown('CKR_DEVICE_ERROR:48'), name: 'CKR_DEVICE_ERROR', kind: 'token' },
    { error: thrown('CKR_SESSION_CLOSED'), name: 'CKR_SESSION_CLOSED', kind: 'session' },
    { error: thrown('CKR_VENDOR_DEFINED:2147483905'), name: 'CKR_0x80000101', kind: 'token' },
    { error: thrown('CKR_VENDOR_DEFINED:320'), name: 'CKR_CURVE_NOT_SUPPORTED', kind: 'refused' },
    { error: thrown('CKR_PIN_INCORRECT:160'), name: 'CKR_PIN_INCORRECT', kind: 'pin' },
    { error: new TypeError('Argument 0 has wrong type'), name: 'WORKER_FAILED', kind: 'token' },
    { error: 'nonsense', name: 'WORKER_FAILED', kind: 'token' },
  ])('is $name', ({ error, name, kind }) => {
    const fault = faultOf(error, 'C_Sign');
    expect(fault.fault.name).toBe(name);
    expect(fault.class).toBe(kind);
  });

  it('is named with the function, where that is known', () => {
    const stack = 'CKR_DEVICE_ERROR:48\n at PKCS11.C_FindObjectsInit (index.js:1)';
    expect(faultOf(thrown('CKR_DEVICE_ERROR:48', stack), 'C_Sign').message).toBe(
      'CKR_DEVICE_ERROR in C_FindObjectsInit',
    );
    expect(faultOf(thrown('CKR_DEVICE_ERROR:48'), 'C_Sign').message).toBe('CKR_DEVICE_ERROR in C_Sign');
    const own = new TokenFault({ name: 'TOKEN_NOT_FOUND', method: '' });
    expect(faultOf(own)).toBe(own);
  });
});

it('texts of a token lose what fills them up', () => {
  expect(['ca        ', 'ca\0\0', ' a b  ', ''].map(unpadded)).toEqual(['ca', 'ca', ' a b', '']);
});
