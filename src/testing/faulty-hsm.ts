import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { type SoftHsm, softHsm, softHsmModule } from './soft-hsm.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const includes = join(root, 'node_modules/pkcs11js/includes/pkcs11');

/**
 * What a call is to do instead of its work: return this code, hang, crash, take two seconds (`slow`); `flip` a bit of the signature, `final-try`
 * for C_GetTokenInfo, `made-but-lost` for C_GenerateKeyPair, `close-all` sessions before C_SignInit.
 */
export type Order = number | 'hang' | 'crash' | 'slow' | 'flip' | 'final-try' | 'made-but-lost' | 'close-all';

/** A SoftHSM behind a module that fails when it is told to: `faulty-pkcs11.c`. */
export interface FaultyHsm extends SoftHsm {
  /** The next call of this function is to fail so. */
  order(method: string, order: Order): void;
  /** Each call is, until `relent`. */
  orderAlways(method: string, order: Order): void;
  relent(): void;
  /** How often the function was called. */
  calls(method: string): number;
}

/** Compiles the faulty module into `dir`, once for all tests of a file. */
export function compileFaultyModule(dir: string): string {
  const module = join(dir, 'faulty-pkcs11.so');
  const source = fileURLToPath(new URL('./faulty-pkcs11.c', import.meta.url));
  execFileSync('cc', ['-shared', '-fPIC', '-O1', '-I', includes, '-o', module, source]);
  return module;
}

/** Makes such an HSM in `dir`, for processes started from now on in this test. */
export async function faultyHsm(dir: string, module: string): Promise<FaultyHsm> {
  const hsm = await softHsm(dir);
  const orders = join(dir, 'orders');
  mkdirSync(orders);
  const variables = { FAULTY_PKCS11_MODULE: softHsmModule, FAULTY_PKCS11_DIR: orders };
  Object.assign(process.env, variables);
  onTestFinished(() => {
    for (const name of Object.keys(variables)) delete process.env[name];
  });
  const calls = join(orders, 'calls');
  let count = 0;
  return {
    ...hsm,
    config: (settings = {}) => hsm.config({ module, ...settings }),
    order(method, order) {
      count += 1;
      writeFileSync(join(orders, `${method}.${order}.${count}`), '');
    },
    orderAlways: (method, order) => writeFileSync(join(orders, `${method}.${order}.always`), ''),
    relent() {
      for (const name of readdirSync(orders))
        if (name !== 'calls') rmSync(join(orders, name), { force: true });
    },
    calls: (method) =>
      existsSync(calls)
        ? readFileSync(calls, 'utf8')
            .split('\n')
            .filter((line) => line === method).length
        : 0,
  };
}
