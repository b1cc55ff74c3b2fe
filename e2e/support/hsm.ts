import { mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { type SoftHsm, softHsm } from '../../src/testing/soft-hsm.ts';
import type { Sandbox } from './sandbox.ts';
import type { SignetServer } from './signet.ts';

/** A SoftHSM in a folder of the sandbox, for processes started from now on in this test. */
export async function hsmIn(sandbox: Sandbox): Promise<SoftHsm> {
  return softHsm(hsmFolder(sandbox));
}

/** An empty folder for an HSM. */
export function hsmFolder(sandbox: Sandbox): string {
  const dir = join(sandbox.dir, 'hsm');
  mkdirSync(dir);
  return dir;
}

/** The section `keyManager` of docs/hsm.md, and more settings. */
export function keyManagerOf(hsm: SoftHsm, settings: object = {}) {
  const { module, tokenLabel, pinFile } = hsm.config();
  return { keyManager: { pkcs11: { module, tokenLabel, pinFile, ...settings } } };
}

/** The process of this server that runs the module; throws when there is none now. */
export function moduleProcessOf(server: SignetServer): number {
  const found = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .find((pid) => {
      try {
        const status = readFileSync(`/proc/${pid}/status`, 'utf8');
        const parent = /^PPid:\t(\d+)$/m.exec(status)?.[1];
        return Number(parent) === server.process.pid && !/^State:\tZ/m.test(status);
      } catch {
        return false;
      }
    });
  if (found === undefined) throw new Error('the server has no such process');
  return Number(found);
}

/** Moves the token away and ends what has it open; returns what puts it back. */
export function takeTokenAway(hsm: SoftHsm, server: SignetServer): () => void {
  const away = `${hsm.tokenDir}.away`;
  renameSync(hsm.tokenDir, away);
  process.kill(moduleProcessOf(server), 'SIGKILL');
  return () => renameSync(away, hsm.tokenDir);
}
