import { execFile, spawnSync } from 'node:child_process';
import { chownSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkout } from './support/checkout.ts';
import { describeWith } from './support/parts.ts';
import type { RunningProcess } from './support/process.ts';
import { testSandbox } from './support/test-sandbox.ts';

interface Demo {
  readonly process: RunningProcess;
  /** Where it keeps its files. */
  readonly tmp: string;
}

/** Starts the demo as `make demo` does, with a folder for temporary files of its own. */
async function startDemo(env: Record<string, string>, uid?: number): Promise<Demo> {
  const sandbox = await testSandbox();
  const tmp = join(sandbox.dir, 'tmp');
  mkdirSync(tmp);
  if (uid !== undefined) chownSync(tmp, uid, uid);
  const started = await sandbox.start({
    name: 'demo',
    command: process.execPath,
    args: [`${checkout}demo/demo.ts`],
    env: { DEMO_ROTATIONS: '', DEMO_ENVOY: '', NO_COLOR: '1', TMPDIR: tmp, HOME: tmp, ...env },
    cwd: checkout,
    ...(uid === undefined ? {} : { uid, gid: uid }),
  });
  return { process: started, tmp };
}

/** Files it has left, and processes that have one of them among their arguments. */
function leftBy({ tmp }: Demo): readonly string[] {
  const processes = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return [...readdirSync(tmp), ...processes.map(commandLine).filter((text) => text.includes(tmp))];
}

function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}

/** The commands it tells the user to copy, and the settings that go before each of them. */
function printedCommands({ process }: Demo): { settings: string; commands: readonly string[] } {
  const text = process.lines.join('\n').replaceAll('\\\n', '');
  const [, block = ''] = /Look around.*?\n(.*)\nRotation,/s.exec(text) ?? [];
  const lines = block.split('\n').map((line) => line.trim());
  const isSetting = (line: string) => /^(cd|export) /.test(line);
  return {
    settings: lines.filter(isSetting).join('\n'),
    commands: lines.filter((line) => line !== '' && !line.startsWith('#') && !isSetting(line)),
  };
}

async function shell(script: string): Promise<{ code: number; output: string }> {
  return await new Promise((resolve) => {
    execFile('/bin/sh', ['-c', script], { timeout: 20_000 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), output: stdout + stderr });
    });
  });
}

const wholeStory = [
  /first call +✓ mTLS.* \d+\.\d s after the start/,
  /spiffe:\/\/example\.org\/frontend called spiffe:\/\/example\.org\/backend/,
  /refused +✓ a TLS client without a certificate; .*"tlsv13 alert certificate required"/,
  /refused +✓ a process of user \d+ that is not registered; .*"no identity issued"/,
  /rotated +✓ frontend +[0-9a-f]{8}… → [0-9a-f]{8}… +\d+ requests since, 0 failed/,
  /rotated +✓ backend +[0-9a-f]{8}… → [0-9a-f]{8}… +\d+ requests since, 0 failed/,
  /summary +✓ \d+ rotations, \d+ requests, 0 failed; first call after \d+\.\d s/,
];

describeWith({ linux: true, envoy: true }, 'the demo with Envoy', () => {
  it('tells the whole story and ends by itself', async () => {
    const demo = await startDemo({ DEMO_ROTATIONS: '1' });
    expect(await demo.process.exited).toEqual({ code: 0, signal: null });
    const text = demo.process.lines.join('\n');
    for (const chapter of wholeStory) expect(text).toMatch(chapter);
    expect(Number(/first call after (\d+)/.exec(text)?.[1])).toBeLessThan(60);
    expect(text).toContain('through both Envoys');
    expect(leftBy(demo)).toEqual([]);
  });

  it('prints commands that work, and leaves nothing behind after Ctrl-C', async () => {
    const demo = await startDemo({});
    await demo.process.waitForLine(/^Rotation,/, { timeoutMs: 60_000 });
    const { settings, commands } = printedCommands(demo);
    expect(commands.length).toBeGreaterThan(8);
    const refused = commands.indexOf('bin/signet workload x509');
    for (const [index, command] of commands.entries()) {
      // Watching does not end by itself.
      const script = command.includes('--watch') ? `timeout 5 ${command}; [ $? = 124 ]` : command;
      const { code, output } = await shell(`${settings}\n${script}`);
      expect.soft({ command, code, output }).toMatchObject({ code: index === refused ? 1 : 0 });
      if (command.includes('/certs')) expect.soft(output).toContain('spiffe://example.org/');
      if (command.includes('openssl')) expect.soft(output).toContain('URI:spiffe://example.org/backend');
      if (command.includes('--watch')) expect.soft(output).toContain('spiffe://example.org/me');
    }
    expect(await demo.process.stop({ signal: 'SIGINT' })).toEqual({ code: 0, signal: null });
    expect(leftBy(demo)).toEqual([]);
  });

  // Without root, all tests here are run by an ordinary user.
  const someUid = 61_999;
  const canBeOther =
    process.getuid?.() === 0 &&
    spawnSync(process.execPath, ['--version'], { cwd: checkout, uid: someUid, gid: someUid }).status === 0;
  const skipReason = 'needs root, and a checkout that other users may read';
  it('works for an ordinary user too', { skip: !canBeOther, meta: { skipReason } as object }, async () => {
    const demo = await startDemo({}, someUid);
    await demo.process.waitForLine(/^Rotation,/, { timeoutMs: 60_000 });
    const text = demo.process.lines.join('\n');
    for (const chapter of wholeStory.slice(0, 4)) expect(text).toMatch(chapter);
    expect(text).toMatch(
      /example\.org\/backend\n +for processes with unix:uid:61999 +unix:path:\S+\/backend\/envoy/,
    );
    expect(await demo.process.stop()).toEqual({ code: 0, signal: null });
    expect(leftBy(demo)).toEqual([]);
  });

  it('says what failed, shows the last output and exits with 1', async () => {
    const demo = await startDemo({ ENVOY: '/bin/false' });
    expect(await demo.process.exited).toEqual({ code: 1, signal: null });
    const text = demo.process.lines.join('\n');
    expect(text).toMatch(/failed +✗ envoy backend ended \(exit code 1\)/);
    expect(text).toMatch(/last output of signet agent/);
    expect(leftBy(demo)).toEqual([]);
  });
});

describeWith({ linux: true }, 'the demo without Envoy', () => {
  it('shows the same with two programs that use the Workload API', async () => {
    const demo = await startDemo({ DEMO_ENVOY: 'none', DEMO_ROTATIONS: '1' });
    expect(await demo.process.exited).toEqual({ code: 0, signal: null });
    const text = demo.process.lines.join('\n');
    expect(text).toContain('Without Envoy, as DEMO_ENVOY=none says');
    for (const chapter of wholeStory) expect(text).toMatch(chapter);
    expect(leftBy(demo)).toEqual([]);
  });
});

describe('the settings of the demo', () => {
  it.each([
    { env: { DEMO_ROTATIONS: 'many' }, problem: 'DEMO_ROTATIONS: expected a number from 1 up, "many" came' },
    { env: { DEMO_ENVOY: 'no' }, problem: 'DEMO_ENVOY: expected "none", "no" came' },
  ])('are checked: $problem', async ({ env, problem }) => {
    const demo = await startDemo(env);
    expect(await demo.process.exited).toEqual({ code: 2, signal: null });
    expect(demo.process.lines).toEqual([`demo: ${problem}`]);
  });
});
