import { chown, copyFile, link, mkdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { getEnvoy } from './checkout.ts';
import type { Sandbox } from './sandbox.ts';

/** What tells one proxy, or another program, on this host from others, and where it keeps its files. */
export interface ProxyIdentity {
  readonly name: string;
  /** Its folder, writable by it. */
  readonly dir: string;
  /** Its own copy of the program: Envoy unless said otherwise. */
  readonly binary: string;
  /** The user it runs as; undefined when only its binary tells it apart. */
  readonly uid?: number;
  /** The selectors that hold for it and for no other proxy. */
  readonly selectors: readonly string[];
}

/** User ids that no account has on ordinary systems. */
const firstUid = 61_000;
let proxies = 0;

/** As root each proxy runs under a user id of its own, else from a binary path of its own. */
export async function createProxyIdentity(
  sandbox: Sandbox,
  name: string,
  program = getEnvoy(),
): Promise<ProxyIdentity> {
  const dir = join(sandbox.dir, name);
  await mkdir(dir, { recursive: true, mode: 0o755 });
  // In its own folder also as root: another user may not get to the checkout.
  const binary = join(dir, basename(program));
  await place(program, binary);
  if (process.getuid?.() !== 0) return { name, dir, binary, selectors: [`unix:path:${binary}`] };
  const uid = firstUid + (proxies++ % 1_000);
  await chown(dir, uid, uid);
  return { name, dir, binary, uid, selectors: [`unix:uid:${uid}`] };
}

/** The latest copy of a program that could not be linked: the next one is linked to it, as long as it is there. */
const copies = new Map<string, string>();

/** Envoys are large and many: copied once where the checkout is on another file system than temporary files. */
async function place(program: string, binary: string): Promise<void> {
  await link(copies.get(program) ?? program, binary).catch(async () => {
    await copyFile(program, binary);
    copies.set(program, binary);
  });
}

/** The same program of the same user, with a folder of its own: what a proxy is after a restart. */
export async function restartedProxy(identity: ProxyIdentity): Promise<ProxyIdentity> {
  const dir = join(identity.dir, 'restarted');
  await mkdir(dir, { mode: 0o755 });
  if (identity.uid !== undefined) await chown(dir, identity.uid, identity.uid);
  return { ...identity, name: `${identity.name} restarted`, dir };
}
