import { chown, copyFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { checkout } from './checkout.ts';
import type { PlainAnswer, PlainCall } from './plain-grpc.ts';
import type { ProxyIdentity } from './proxy-identity.ts';
import type { Sandbox } from './sandbox.ts';

/**
 * Makes the calls on `socket` in a new process of `who`, whose program must be Node; returns the answers by the names
 * of the calls.
 */
export async function callAs(
  sandbox: Sandbox,
  who: ProxyIdentity,
  { socket, calls }: { readonly socket: string; readonly calls: readonly PlainCall[] },
): Promise<ReadonlyMap<string, PlainAnswer>> {
  const { dir, uid } = who;
  const script = join(dir, 'plain-grpc.ts');
  const file = join(dir, 'calls.json');
  await copyFile(`${checkout}e2e/support/plain-grpc.ts`, script);
  await writeFile(file, JSON.stringify({ socket, calls }));
  if (uid !== undefined) for (const path of [script, file]) await chown(path, uid, uid);
  const caller = await sandbox.start({
    name: who.name,
    command: who.binary,
    args: [script, file],
    cwd: dir,
    ...(uid === undefined ? {} : { uid, gid: uid }),
  });
  const exit = await caller.exited;
  if (exit.code !== 0) throw new Error(caller.tail());
  const answers = JSON.parse(caller.lines.at(-1) ?? '') as PlainAnswer[];
  return new Map(answers.map((answer) => [answer.name, answer]));
}
