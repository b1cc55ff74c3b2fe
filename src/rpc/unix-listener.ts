import { randomBytes } from 'node:crypto';
import { lstatSync, unlinkSync } from 'node:fs';
import { chmod, lstat, mkdir, rename, unlink } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { AppError } from '../runtime/error.ts';
import { ensurePrivateDirectory } from '../runtime/private-file.ts';

/** Node's default of 511 lets a storm of reconnecting proxies fail. */
export const listenBacklog = 4096;
/** sun_path without its final zero byte (unix(7)). */
const maxPathBytes = 107;

/** Something that takes connections until it is closed. */
export interface Acceptor {
  /** Where it listens, for people and for clients. */
  readonly address: string;
  /** Takes no more connections; those that are open stay. */
  close(): void;
}

/**
 * Listens on a Unix socket that appears under `path` in one step, complete with its mode: bound under another name in
 * the same directory and renamed. A socket that a dead process left is replaced; one that answers, and anything that
 * is no socket, is refused (`failed-precondition`). The directory is made when absent: 0755, or 0700 if private.
 */
export async function listenUnix(
  options: {
    readonly path: string;
    readonly mode: number;
    readonly isPrivate: boolean;
    /** A connection that the system could not accept, such as for want of descriptors. */
    readonly onAcceptError: (error: Error) => void;
  },
  onConnection: (socket: Socket) => void,
): Promise<Acceptor> {
  const path = resolve(options.path);
  const directory = dirname(path);
  await (options.isPrivate ? ensurePrivateDirectory(directory) : ensurePublicDirectory(directory));
  await refuseIfTaken(path);
  const temporary = join(directory, `.${randomBytes(3).toString('hex')}`);
  for (const candidate of [path, temporary]) {
    const length = Buffer.byteLength(candidate);
    if (length > maxPathBytes) {
      throw unusable(
        `socket path "${path}" is too long: ${length} bytes; at most ${maxPathBytes} are possible`,
      );
    }
  }
  const server = createServer(onConnection);
  try {
    await listening(server, temporary);
    await chmod(temporary, options.mode);
    const { dev, ino } = await lstat(temporary);
    await rename(temporary, path);
    server.on('error', options.onAcceptError);
    return { address: path, close: () => close(server, path, { dev, ino }) };
  } catch (cause) {
    server.close();
    await unlink(temporary).catch(() => undefined);
    throw unusable(`cannot listen on "${path}"`, cause);
  }
}

/**
 * Removes the name before the socket stops answering: as long as it answers no successor takes the name, so what is
 * removed is ours. Node itself only unlinks the temporary name, which is gone.
 */
function close(server: Server, path: string, own: { readonly dev: number; readonly ino: number }): void {
  try {
    const { dev, ino } = lstatSync(path);
    if (dev === own.dev && ino === own.ino) unlinkSync(path);
  } catch {
    // Somebody removed it; nothing is left to do.
  }
  server.close();
}

async function listening(server: Server, path: string): Promise<void> {
  await new Promise<void>((done, failed) => {
    server.once('error', failed);
    server.listen({ path, backlog: listenBacklog }, () => {
      server.off('error', failed);
      done();
    });
  });
}

async function refuseIfTaken(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined) return;
  if (!found.isSocket())
    throw unusable(`"${path}" exists and is not a socket; remove it or choose another path`);
  if (await answers(path))
    throw unusable(`"${path}" is in use by a running process; stop it or choose another path`);
}

/** Only a refused connection proves that nobody listens: a full backlog (EAGAIN) means that somebody does. */
function answers(path: string): Promise<boolean> {
  return new Promise((found) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      found(true);
    });
    probe.on('error', (error: NodeJS.ErrnoException) => {
      found(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT');
    });
  });
}

async function ensurePublicDirectory(path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode: 0o755 }).catch((cause: unknown) => {
    throw unusable(`cannot create directory "${path}"`, cause);
  });
  if (first === undefined) return;
  // The mode given to mkdir() is cut by the umask, and workloads of other users must get through.
  for (let made = path; made.length >= first.length; made = dirname(made)) await chmod(made, 0o755);
}

function unusable(message: string, cause?: unknown): AppError {
  return cause instanceof AppError ? cause : new AppError('failed-precondition', message, { cause });
}
