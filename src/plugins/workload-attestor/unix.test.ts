import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { PeerProcess } from '../../plugin-api/workload-attestor.ts';
import { silentLogger } from '../../runtime/log.ts';
import { systemClock } from '../../runtime/time.ts';
import { selectorText } from '../../spiffe/selector.ts';
import { eventually } from '../../testing/eventually.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { UnixWorkloadAttestor } from './unix.ts';
import { type UnixConfig, unixConfig } from './unix-config.ts';

const { uid: ownUid, gid: ownGid } = { uid: process.getuid!(), gid: process.getgid!() };
const isRoot = ownUid === 0;
const sleep = execFileSync('sh', ['-c', 'readlink -f "$(command -v sleep)"'], { encoding: 'utf8' }).trim();
const nobody = 65_534;

interface Started extends PeerProcess {
  readonly child: ChildProcess;
}

/** Runs a program until the test ends; when this returns, exec() has happened. */
function start(
  program: string,
  args: readonly string[] = ['60'],
  ids: { uid?: number; gid?: number } = {},
): Started {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'], ...ids });
  const { pid } = child;
  if (pid === undefined) throw new Error(`cannot start ${program}`);
  onTestFinished(() => void child.kill('SIGKILL'));
  const isAlive = () => child.exitCode === null && child.signalCode === null;
  return { child, pid, uid: ids.uid ?? ownUid, gid: ids.gid ?? ownGid, instance: `started ${pid}`, isAlive };
}

/** A copy of `sleep` that any user may run. */
function copyOfSleep(name = 'program', mode = 0o755): string {
  const directory = tempDir();
  chmodSync(directory, 0o755);
  const path = join(directory, name);
  copyFileSync(sleep, path);
  chmodSync(path, mode);
  return path;
}

function makeAttestor(config: Partial<UnixConfig> = {}, clock = systemClock) {
  return new UnixWorkloadAttestor({ clock, log: silentLogger }, unixConfig.parse(config));
}

const signal = new AbortController().signal;

async function attest(peer: PeerProcess, attestor = makeAttestor()): Promise<readonly string[]> {
  return (await attestor.attest(peer, { signal })).map(selectorText);
}

const sha256 = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');
const withPrefix = (texts: readonly string[], prefix: string) =>
  texts.filter((text) => text.startsWith(prefix));
const refusal = (reason: string) => ({ code: 'permission-denied', reason });

describe('selectors of a process', () => {
  it("are those that id(1) and sha256sum(1) tell, in SPIRE's form", async () => {
    const texts = await attest(start(sleep));
    const id = (...args: string[]) => execFileSync('id', args, { encoding: 'utf8' }).trim();
    expect(texts.slice(0, 4)).toEqual([
      `unix:uid:${id('-u')}`,
      `unix:user:${id('-un')}`,
      `unix:gid:${id('-g')}`,
      `unix:group:${id('-gn')}`,
    ]);
    expect(withPrefix(texts, 'unix:path:')).toEqual([`unix:path:${sleep}`]);
    const sum = execFileSync('sha256sum', [sleep], { encoding: 'utf8' }).split(' ')[0];
    expect(withPrefix(texts, 'unix:sha256:')).toEqual([`unix:sha256:${sum}`]);
    expect(new Set(texts).size).toBe(texts.length);
  });

  it.runIf(isRoot)(
    'name the user of the socket, and no one for ids without a name (needs root)',
    async () => {
      const known = await attest(start(sleep, ['60'], { uid: nobody, gid: nobody }));
      expect(known.slice(0, 4)).toEqual([
        'unix:uid:65534',
        'unix:user:nobody',
        'unix:gid:65534',
        'unix:group:nogroup',
      ]);
      const unknown = await attest(start(sleep, ['60'], { uid: 4_242_424, gid: 4_242_425 }));
      expect(unknown.slice(0, 2)).toEqual(['unix:uid:4242424', 'unix:gid:4242425']);
      expect(withPrefix(unknown, 'unix:user')).toEqual([]);
      expect(withPrefix(unknown, 'unix:group')).toEqual([]);
    },
  );

  it.runIf(isRoot)('have each supplementary group, by id and by name (needs root)', async () => {
    const args = [`--reuid=${nobody}`, `--regid=${nobody}`, '--groups=4,4242425,0', sleep, '60'];
    const peer = { ...start('setpriv', args), uid: nobody, gid: nobody };
    await eventually(async () => expect((await attest(peer))[0]).toBe('unix:uid:65534'));
    const groups = withPrefix(await attest(peer), 'unix:supplementary');
    expect(groups.sort()).toEqual([
      'unix:supplementary_gid:0',
      'unix:supplementary_gid:4',
      'unix:supplementary_gid:4242425',
      'unix:supplementary_group:adm',
      'unix:supplementary_group:root',
    ]);
  });

  it('have no hash when hashing is off or the program is too large', async () => {
    const peer = start(sleep);
    for (const config of [{ hashExecutable: false }, { maxExecutableBytes: 1000 }]) {
      const texts = await attest(peer, makeAttestor(config));
      expect(withPrefix(texts, 'unix:sha256:')).toEqual([]);
      expect(withPrefix(texts, 'unix:path:')).toEqual([`unix:path:${sleep}`]);
    }
  });
});

describe('a program whose file is gone', () => {
  it('keeps the hash of what runs and loses the path', async () => {
    const path = copyOfSleep();
    const hash = sha256(path);
    const peer = start(path);
    expect(withPrefix(await attest(peer), 'unix:path:')).toEqual([`unix:path:${path}`]);
    rmSync(path);
    const texts = await attest(peer);
    expect(withPrefix(texts, 'unix:path:')).toEqual([]);
    expect(withPrefix(texts, 'unix:sha256:')).toEqual([`unix:sha256:${hash}`]);
  });

  it('does not get the path of the file that replaced it', async () => {
    const path = copyOfSleep();
    const fingerprints = makeAttestor();
    const peer = start(path);
    const before = await fingerprints.programFingerprint(peer);
    renameSync(copyOfSleep(), path);
    expect(withPrefix(await attest(peer), 'unix:path:')).toEqual([]);
    // It still runs what it ran: an upgrade on disk ends no stream.
    expect(await fingerprints.programFingerprint(peer)).toBe(before);
    expect(withPrefix(await attest(start(path)), 'unix:path:')).toEqual([`unix:path:${path}`]);
  });

  it('does not get the path of a file that is named like the mark of the kernel', async () => {
    const path = copyOfSleep();
    const peer = start(path);
    rmSync(path);
    renameSync(copyOfSleep(), `${path} (deleted)`);
    expect(withPrefix(await attest(peer), 'unix:path:')).toEqual([]);
  });

  it('is not one whose living file is named like the mark of the kernel', async () => {
    const path = copyOfSleep('program (deleted)');
    const peer = start(path);
    expect(withPrefix(await attest(peer), 'unix:path:')).toEqual([`unix:path:${path}`]);
    rmSync(path);
    expect(withPrefix(await attest(peer), 'unix:path:')).toEqual([]);
  });
});

describe('a program in a mount namespace of its own', () => {
  /** A program of the system that is not `sleep`. */
  const shadowed = execFileSync('sh', ['-c', 'readlink -f "$(command -v id)"'], { encoding: 'utf8' }).trim();
  const callers = [
    { name: 'root', ids: isRoot ? {} : undefined },
    { name: 'a user', ids: isRoot ? { uid: nobody, gid: nobody } : {} },
  ];
  const whySkip = (ids: { uid?: number; gid?: number } | undefined) => {
    if (ids === undefined) return 'needs root';
    const isAllowed = spawnSync('unshare', ['-Urm', 'true'], ids).status === 0;
    return isAllowed ? undefined : 'user namespaces are not allowed here';
  };
  /** Runs a shell command in namespaces of its own; when this resolves, it has become the program at `path`. */
  const startUnshared = async (command: string, path: string, ids: { uid?: number; gid?: number } = {}) => {
    const peer = start('unshare', ['-Urm', 'sh', '-c', command], ids);
    const { ino } = statSync(path);
    await eventually(() => expect(statSync(`/proc/${peer.pid}/exe`).ino).toBe(ino));
    return peer;
  };

  it.for(callers)(
    'does not get the path of a file over which $name mounted it',
    async ({ ids }, { skip }) => {
      const reason = whySkip(ids);
      skip(reason !== undefined, reason);
      const path = copyOfSleep();
      const hash = sha256(path);
      const peer = await startUnshared(`mount --bind ${path} ${shadowed} && exec ${shadowed} 60`, path, ids);
      // The kernel tells the path that the process has made up.
      expect(readlinkSync(`/proc/${peer.pid}/exe`)).toBe(shadowed);
      const texts = await attest(peer);
      expect(withPrefix(texts, 'unix:path:')).toEqual([]);
      expect(withPrefix(texts, 'unix:sha256:')).toEqual([`unix:sha256:${hash}`]);
    },
  );

  it.for(callers)(
    'keeps a path that leads the agent to the same file, as $name',
    async ({ ids }, { skip }) => {
      const reason = whySkip(ids);
      skip(reason !== undefined, reason);
      const path = copyOfSleep();
      const peer = await startUnshared(`exec ${path} 60`, path, ids);
      expect(withPrefix(await attest(peer), 'unix:path:')).toEqual([`unix:path:${path}`]);
    },
  );
});

describe('a caller is refused', () => {
  it('that has exited', async () => {
    const peer = start(sleep);
    peer.child.kill('SIGKILL');
    await once(peer.child, 'exit');
    await expect(attest(peer)).rejects.toMatchObject(refusal('PROCESS_EXITED'));
    await expect(makeAttestor().programFingerprint(peer)).rejects.toMatchObject(refusal('PROCESS_EXITED'));
  });

  it('that has exited, although its PID is another process by now', async () => {
    const impostor = { ...start(sleep), isAlive: () => false };
    await expect(attest(impostor)).rejects.toMatchObject(refusal('PROCESS_EXITED'));
    await expect(makeAttestor().programFingerprint(impostor)).rejects.toMatchObject(
      refusal('PROCESS_EXITED'),
    );
  });

  it.each([0, -1, Number.NaN, 1.5])('whose PID the agent cannot see (%d)', async (pid) => {
    const peer = { ...start(sleep), pid };
    await expect(attest(peer)).rejects.toMatchObject(refusal('PROCESS_UNKNOWN'));
  });

  it('that is a zombie', async () => {
    const parent = start('sh', ['-c', `${sleep} 0 & echo $!; exec ${sleep} 60`]);
    const [line] = (await once(createInterface({ input: parent.child.stdout! }), 'line')) as [string];
    const pid = Number(line);
    await eventually(() => expect(readFileSync(`/proc/${pid}/stat`, 'utf8')).toMatch(/\) Z /));
    const peer = { pid, uid: ownUid, gid: ownGid, instance: 'started 1', isAlive: () => true };
    await expect(attest(peer)).rejects.toMatchObject(refusal('PROCESS_UNREADABLE'));
    await expect(makeAttestor().programFingerprint(peer)).rejects.toMatchObject(
      refusal('PROCESS_UNREADABLE'),
    );
  });

  it.runIf(isRoot && isKernelThread(2))('that is a kernel thread (needs root)', async () => {
    const peer = { pid: 2, uid: 0, gid: 0, instance: 'started 1', isAlive: () => true };
    await expect(attest(peer)).rejects.toMatchObject(refusal('PROCESS_UNREADABLE'));
  });

  it.runIf(isRoot).each([
    { name: 'setuid', mode: 0o4755 },
    { name: 'setgid', mode: 0o2755 },
  ])('that runs a $name program now (needs root)', async ({ mode }) => {
    const path = copyOfSleep('program', mode);
    chownSync(path, 1, 1);
    chmodSync(path, mode);
    const peer = start(path, ['60'], { uid: nobody, gid: nobody });
    await expect(attest(peer)).rejects.toMatchObject(refusal('OTHER_EFFECTIVE_IDS'));
  });

  it('whose ids are not those of the socket', async () => {
    const peer = start(sleep);
    for (const ids of [{ uid: peer.uid + 1 }, { gid: peer.gid + 1 }]) {
      await expect(attest({ ...peer, ...ids })).rejects.toMatchObject(refusal('OTHER_EFFECTIVE_IDS'));
    }
  });

  it.runIf(isRoot)(
    'that an agent without CAP_SYS_PTRACE cannot see, and it says so (needs root)',
    async () => {
      const peer = start(sleep, ['60'], { uid: nobody, gid: nobody });
      const url = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
      const module = `
      const { UnixWorkloadAttestor } = await import(${url('./unix.ts')});
      const attestor = new UnixWorkloadAttestor({}, { hashExecutable: false, maxExecutableBytes: 1 });
      const peer = { pid: ${peer.pid}, uid: ${nobody}, gid: ${nobody}, isAlive: () => true };
      const error = await attestor.attest(peer, { signal: AbortSignal.timeout(5000) }).catch((e) => e);
      console.log(JSON.stringify({ reason: error.reason, message: error.message }));`;
      const args = [
        '--bounding-set=-all',
        '--inh-caps=-all',
        process.execPath,
        '--input-type=module',
        '-e',
        module,
      ];
      const told = JSON.parse(execFileSync('setpriv', args, { encoding: 'utf8' })) as object;
      const message = expect.stringContaining('CAP_SYS_PTRACE');
      expect(told).toEqual({ reason: 'PROCESS_UNREADABLE', message });
    },
  );

  it('that has gone away meanwhile', async () => {
    const gone = makeAttestor().attest(start(sleep), { signal: AbortSignal.abort() });
    await expect(gone).rejects.toMatchObject({ code: 'cancelled' });
  });
});

describe('exec()', () => {
  const shell = execFileSync('sh', ['-c', 'readlink -f "$(command -v sh)"'], { encoding: 'utf8' }).trim();
  const thenSleep = ['-c', `read line; exec ${sleep} 60`];

  it('changes the fingerprint of the program, and nothing else does', async () => {
    const attestor = makeAttestor();
    const peer = start(shell, thenSleep);
    const before = await attestor.programFingerprint(peer);
    expect(await attestor.programFingerprint(peer)).toBe(before);
    peer.child.stdin!.write('\n');
    await eventually(async () => expect(await attestor.programFingerprint(peer)).not.toBe(before));
    expect(withPrefix(await attest(peer), 'unix:path:')).toEqual([`unix:path:${sleep}`]);
  });

  it('in the middle of an attestation refuses the caller', async () => {
    const path = join(tempDir(), basename(shell));
    copyFileSync(shell, path);
    // So large that hashing it takes longer than an exec().
    truncateSync(path, 256 * 1024 * 1024);
    const peer = start(path, thenSleep);
    const attestation = attest(peer);
    const isOpen = () => readdirSync('/proc/self/fd').some((fd) => linkOf(`/proc/self/fd/${fd}`) === path);
    await eventually(() => expect(isOpen()).toBe(true));
    peer.child.stdin!.write('\n');
    await expect(attestation).rejects.toMatchObject(refusal('PROGRAM_CHANGED'));
  });
});

describe('the hash of a program', () => {
  const bytes = 16 * 1024 * 1024;
  const settled = { ...systemClock, now: () => Date.now() + 10_000 };
  const largeProgram = () => {
    const path = copyOfSleep();
    truncateSync(path, bytes);
    return path;
  };
  /** How many bytes this process reads while `work` runs. */
  async function bytesReadBy(work: () => Promise<unknown>): Promise<number> {
    const read = () => Number(/^rchar: (\d+)$/m.exec(readFileSync('/proc/self/io', 'utf8'))?.[1]);
    const before = read();
    await work();
    return read() - before;
  }

  it('is computed once for all that ask at the same time, and not again', async () => {
    const path = largeProgram();
    const attestor = makeAttestor({}, settled);
    const peers = [1, 2, 3, 4, 5, 6].map(() => start(path));
    const expected = sha256(path);
    const all = await bytesReadBy(async () => {
      const results = await Promise.all(peers.map((peer) => attest(peer, attestor)));
      for (const texts of results) expect(texts).toContain(`unix:sha256:${expected}`);
    });
    expect(all).toBeGreaterThan(bytes);
    expect(all).toBeLessThan(2 * bytes);
    expect(await bytesReadBy(() => attest(peers[0]!, attestor))).toBeLessThan(bytes / 2);
  });

  it('is computed again while the file is so young that it could change unnoticed', async () => {
    // By this clock the file is from the future.
    const attestor = makeAttestor({}, { ...systemClock, now: () => Date.now() - 3_600_000 });
    const peer = start(largeProgram());
    expect(await bytesReadBy(() => attest(peer, attestor))).toBeGreaterThan(bytes);
    expect(await bytesReadBy(() => attest(peer, attestor))).toBeGreaterThan(bytes);
  });

  it('does not mix up files that change behind one path', async () => {
    const path = copyOfSleep();
    const attestor = makeAttestor({}, settled);
    const first = sha256(path);
    expect(await attest(start(path), attestor)).toContain(`unix:sha256:${first}`);
    const other = copyOfSleep();
    truncateSync(other, 1024 * 1024);
    renameSync(other, path);
    expect(sha256(path)).not.toBe(first);
    expect(await attest(start(path), attestor)).toContain(`unix:sha256:${sha256(path)}`);
  });
});

function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

function isKernelThread(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').startsWith(`${pid} (kthreadd)`);
  } catch {
    return false;
  }
}
