import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { startNode } from '../testing/child-process.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { listenUnix } from './unix-listener.ts';

const onAcceptError = (error: Error) => {
  throw error;
};

/** Listens until the test ends; names itself to whoever connects. */
async function listen(path: string, name: string, options: { mode?: number; isPrivate?: boolean } = {}) {
  const { mode = 0o666, isPrivate = false } = options;
  const open = new Set<Socket>();
  const acceptor = await listenUnix({ path, mode, isPrivate, onAcceptError }, (socket) => {
    open.add(socket);
    socket.on('error', () => undefined);
    socket.end(name);
  });
  onTestFinished(() => {
    acceptor.close();
    for (const socket of open) socket.destroy();
  });
  return acceptor;
}

async function whoAnswers(path: string): Promise<string> {
  const socket = connect(path);
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

const refused = (text: RegExp) =>
  expect.objectContaining({ code: 'failed-precondition', message: expect.stringMatching(text) });

describe('a Unix socket', () => {
  it('has its mode whatever the umask, and leaves no other name', async () => {
    const before = process.umask(0o077);
    onTestFinished(() => void process.umask(before));
    const path = join(tempDir(), 'made', 'for-all', 'api.sock');
    await listen(path, 'one');
    expect(statSync(path).mode & 0o777).toBe(0o666);
    for (const directory of [dirname(path), dirname(dirname(path))]) {
      expect(statSync(directory).mode & 0o777).toBe(0o755);
    }
    expect(readdirSync(dirname(path))).toEqual(['api.sock']);
    expect(await whoAnswers(path)).toBe('one');
  });

  it('that is private lies in a directory that is', async () => {
    const path = join(tempDir(), 'admin', 'admin.sock');
    await listen(path, 'one', { mode: 0o600, isPrivate: true });
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(statSync(dirname(path)).mode & 0o777).toBe(0o700);
  });

  it('that is private is refused in a directory open to others', async () => {
    const directory = join(tempDir(), 'open');
    mkdirSync(directory, { mode: 0o755 });
    await expect(listen(join(directory, 'a.sock'), 'one', { isPrivate: true })).rejects.toEqual(
      refused(/chmod 700/),
    );
  });

  it('that answers is not taken away', async () => {
    const path = join(tempDir(), 'api.sock');
    await listen(path, 'one');
    await expect(listen(path, 'two')).rejects.toEqual(refused(/in use/));
    expect(await whoAnswers(path)).toBe('one');
    expect(readdirSync(dirname(path))).toEqual(['api.sock']);
  });

  it('that a dead process left is replaced', async () => {
    const path = join(tempDir(), 'api.sock');
    const script = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
    spawnSync(process.execPath, ['--eval', script]);
    expect(existsSync(path)).toBe(true);
    await listen(path, 'two');
    expect(await whoAnswers(path)).toBe('two');
  });

  it('is gone after close, while open connections stay', async () => {
    const path = join(tempDir(), 'api.sock');
    const accepted = Promise.withResolvers<Socket>();
    const acceptor = await listenUnix(
      { path, mode: 0o600, isPrivate: false, onAcceptError },
      accepted.resolve,
    );
    const client = connect(path);
    const server = await accepted.promise;
    acceptor.close();
    expect(existsSync(path)).toBe(false);
    server.end('still here');
    const [bytes] = await once(client, 'data');
    expect(String(bytes)).toBe('still here');
    client.destroy();
  });

  it('of a successor is not removed by its predecessor', async () => {
    const path = join(tempDir(), 'api.sock');
    const predecessor = await listen(path, 'one');
    // As a restart by an impatient administrator: the name is free, the old process not yet gone.
    spawnSync('rm', [path]);
    await listen(path, 'two');
    predecessor.close();
    expect(await whoAnswers(path)).toBe('two');
  });

  it('of a successor outlives a predecessor that is still ending its calls, and then exits', async () => {
    const path = join(tempDir(), 'api.sock');
    const module = JSON.stringify(new URL('./unix-listener.ts', import.meta.url).href);
    const predecessor = startNode(`
      import { createInterface } from 'node:readline';
      import { listenUnix } from ${module};
      const options = { path: ${JSON.stringify(path)}, mode: 0o666, isPrivate: false, onAcceptError: () => {} };
      const acceptor = await listenUnix(options, (socket) => {
        socket.on('error', () => {});
        socket.write('one');
      });
      console.log('listens');
      for await (const line of createInterface({ input: process.stdin })) {
        if (line === 'exit') process.exit();
        acceptor.close();
        console.log('stops');
      }`);
    expect(await predecessor.nextLine()).toBe('listens');
    const client = connect(path).on('error', () => undefined);
    onTestFinished(() => void client.destroy());
    const [greeting] = await once(client, 'data');
    predecessor.writeLine('stop');
    expect(await predecessor.nextLine()).toBe('stops');
    await listen(path, 'two');
    expect(await whoAnswers(path)).toBe('two');
    const ended = once(client, 'close');
    predecessor.writeLine('exit');
    client.resume();
    await ended;
    expect(String(greeting)).toBe('one');
    expect(await whoAnswers(path)).toBe('two');
    expect(readdirSync(dirname(path))).toEqual(['api.sock']);
  });

  it('does not replace what is no socket', async () => {
    const path = join(tempDir(), 'api.sock');
    writeFileSync(path, 'precious');
    await expect(listen(path, 'one')).rejects.toEqual(refused(/not a socket/));
    expect(statSync(path).isFile()).toBe(true);
  });

  it('counts as answered when its backlog is full', async () => {
    const path = join(tempDir(), 'api.sock');
    // Listens, and is then too busy to accept anything.
    const busy = startNode(`
      import { writeSync } from 'node:fs';
      import { createServer } from 'node:net';
      createServer().listen({ path: ${JSON.stringify(path)}, backlog: 1 }, () => {
        writeSync(1, 'listening\\n');
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
      });
    `);
    await busy.nextLine();
    let isFull = false;
    while (!isFull) {
      const socket = connect(path);
      onTestFinished(() => void socket.destroy());
      isFull = await once(socket, 'connect').then(
        () => false,
        (error: NodeJS.ErrnoException) => error.code === 'EAGAIN',
      );
    }
    await expect(listen(path, 'one')).rejects.toEqual(refused(/in use/));
  });

  it('with a name that the kernel cannot hold is refused', async () => {
    const path = join(tempDir(), 'x'.repeat(110));
    await expect(listen(path, 'one')).rejects.toEqual(refused(/too long.*107/));
  });

  it('says why it cannot listen', async () => {
    const file = join(tempDir(), 'file');
    writeFileSync(file, '');
    await expect(listen(join(file, 'api.sock'), 'one')).rejects.toEqual(refused(/cannot create directory/));
  });
});
