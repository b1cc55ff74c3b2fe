import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import { startNode, type TestProcess } from '../testing/child-process.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { nativeAddon } from './native.ts';

const addon = nativeAddon();

/** The descriptor of an accepted connection from another process. */
async function connectedPeer(): Promise<{ readonly fd: number; readonly client: TestProcess }> {
  const path = join(tempDir(), 's.sock');
  // Paused: Node would close the descriptor as soon as the peer is gone.
  const server = net.createServer({ pauseOnConnect: true });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const accepted = once(server, 'connection') as Promise<[net.Socket]>;
  const client = startNode(`
    import net from 'node:net';
    const socket = net.connect(${JSON.stringify(path)}, () => console.log('connected'));
    socket.on('error', () => undefined);
    process.stdin.resume();`);
  await client.nextLine();
  const [socket] = await accepted;
  socket.on('error', () => undefined);
  onTestFinished(() => {
    socket.destroy();
    server.close();
  });
  return { fd: (socket as unknown as { _handle: { fd: number } })._handle.fd, client };
}

function isCloseOnExec(fd: number): boolean {
  const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1];
  return (Number.parseInt(flags ?? '0', 8) & 0o2000000) !== 0;
}

describe('the peer of a Unix socket', () => {
  it('is named by the kernel', async () => {
    const { fd, client } = await connectedPeer();
    expect(addon.peerCredentials(fd)).toEqual({
      pid: client.pid,
      uid: process.geteuid?.(),
      gid: process.getegid?.(),
    });
  });

  it('has a pidfd that shows its end', async ({ skip }) => {
    const { fd, client } = await connectedPeer();
    const pidfd = addon.peerPidfd(fd);
    if (pidfd === -1) return skip('this kernel has no SO_PEERPIDFD');
    expect(pidfd).toBeGreaterThan(2);
    expect(isCloseOnExec(pidfd)).toBe(true);
    expect(readFileSync(`/proc/self/fdinfo/${pidfd}`, 'utf8')).toMatch(
      new RegExp(`^Pid:\\s*${client.pid}$`, 'm'),
    );
    expect(addon.pidfdAlive(pidfd)).toBe(true);
    await client.kill('SIGKILL');
    expect(addon.pidfdAlive(pidfd)).toBe(false);
    addon.closeFd(pidfd);
  });

  it('is not mistaken for an old kernel when it has died before it is asked for', async ({ skip }) => {
    const { fd, client } = await connectedPeer();
    const alive = addon.peerPidfd(fd);
    if (alive === -1) return skip('this kernel has no SO_PEERPIDFD');
    addon.closeFd(alive);
    await client.kill('SIGKILL');
    try {
      // Newer kernels give a pidfd of the dead process; older ones refuse. Neither is "not supported".
      const pidfd = addon.peerPidfd(fd);
      expect(pidfd).not.toBe(-1);
      expect(addon.pidfdAlive(pidfd)).toBe(false);
      addon.closeFd(pidfd);
    } catch (error) {
      expect(['EINVAL', 'ESRCH', 'ENODATA']).toContain((error as NodeJS.ErrnoException).code);
    }
  });
});

describe('a process', () => {
  it('is held by its PID and seen to end', async () => {
    const child = startNode(`process.stdin.resume(); console.log('up');`);
    await child.nextLine();
    const pidfd = addon.pidfdOpen(child.pid);
    expect(isCloseOnExec(pidfd)).toBe(true);
    expect(addon.pidfdAlive(pidfd)).toBe(true);
    await child.kill('SIGKILL');
    expect(addon.pidfdAlive(pidfd)).toBe(false);
    addon.closeFd(pidfd);
    expect(() => addon.pidfdOpen(child.pid)).toThrow(expect.objectContaining({ code: 'ESRCH' }));
  });

  it('is not inherited as a descriptor by children', () => {
    const pidfd = addon.pidfdOpen(process.pid);
    const links = execFileSync('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' });
    expect(readlinkSync(`/proc/self/fd/${pidfd}`)).toContain('pidfd');
    expect(links).not.toContain('pidfd');
    addon.closeFd(pidfd);
  });
});

describe('a lock on a file', () => {
  it('is held by one open file and given up when that is closed', () => {
    const path = join(tempDir(), 'lock');
    const [first, second] = [openSync(path, 'w'), openSync(path, 'w')];
    expect(addon.lockFile(first)).toBe(true);
    expect(addon.lockFile(second)).toBe(false);
    closeSync(first);
    expect(addon.lockFile(second)).toBe(true);
    closeSync(second);
  });
});

describe('the addon', () => {
  const functions = [
    'peerCredentials',
    'peerPidfd',
    'pidfdOpen',
    'pidfdAlive',
    'closeFd',
    'lockFile',
  ] as const;

  it.each(functions)('%s refuses what is no descriptor or PID, without a crash', (name) => {
    const call = addon[name] as (...args: unknown[]) => unknown;
    const notAnInteger = fc.oneof(
      fc.string(),
      fc.object(),
      fc.bigInt(),
      fc.constantFrom(
        undefined,
        null,
        true,
        Symbol('s'),
        () => 1,
        Number.NaN,
        Infinity,
        -Infinity,
        -1,
        0.5,
        2 ** 31,
        2 ** 32 + 1,
      ),
      fc.double({ max: -1e-9, noNaN: true }),
    );
    fc.assert(
      fc.property(notAnInteger, (value) => {
        expect(() => call(value)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
      }),
    );
    expect(() => call()).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('refuses PID 0, which would mean oneself in other calls', () => {
    expect(() => addon.pidfdOpen(0)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('names the errno of what the kernel refuses', () => {
    const file = openSync('/dev/null', 'r');
    const free = 2 ** 31 - 1;
    const refusals = [
      () => addon.peerCredentials(free),
      () => addon.peerPidfd(free),
      () => addon.pidfdAlive(free),
      () => addon.closeFd(free),
      () => addon.lockFile(free),
      () => addon.peerCredentials(file),
      () => addon.peerPidfd(file),
      () => addon.pidfdOpen(free),
    ].map((refusal) => {
      try {
        return refusal();
      } catch (error) {
        return (error as NodeJS.ErrnoException).code;
      }
    });
    closeSync(file);
    expect(refusals).toEqual(['EBADF', 'EBADF', 'EBADF', 'EBADF', 'EBADF', 'ENOTSOCK', 'ENOTSOCK', 'ESRCH']);
  });
});

it('a process that forbids core dumps leaves none, and others of its user cannot look into its memory', async () => {
  const url = JSON.stringify(new URL('./native.ts', import.meta.url).href);
  const child = startNode(`
    import { readFileSync } from 'node:fs';
    const { nativeAddon } = await import(${url});
    nativeAddon().forbidCoreDumps();
    console.log(/^Max core file size.*$/m.exec(readFileSync('/proc/self/limits', 'utf8'))[0]);
    process.stdin.resume();`);
  expect(await child.nextLine()).toMatch(/^Max core file size\s+0\s+0\s/);
  // The kernel gives what it shows of such a process to root.
  expect(statSync(`/proc/${child.pid}/limits`).uid).toBe(0);
});
