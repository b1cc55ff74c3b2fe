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
  await link(program, binary).catch(async () => await copyFile(program, binary));
  if (process.getuid?.() !== 0) return { name, dir, binary, selectors: [`unix:path:${binary}`] };
  const uid = firstUid + (proxies++ % 1_000);
  await chown(dir, uid, uid);
  return { name, dir, binary, uid, selectors: [`unix:uid:${uid}`] };
}
