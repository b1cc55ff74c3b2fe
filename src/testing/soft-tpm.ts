import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, openSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pkcs11Config } from '../plugins/key-manager/pkcs11-config.ts';
import { eventually } from './eventually.ts';

const run = promisify(execFile);

const programs = ['swtpm', 'dbus-daemon', 'tpm2-abrmd', 'tpm2_ptool'] as const;

/** The module of tpm2-pkcs11, where Debian and Fedora put it. */
const tpmModule: string | undefined = [
  `/usr/lib/${{ x64: 'x86_64', arm64: 'aarch64' }[process.arch as 'x64' | 'arm64']}-linux-gnu/libtpm2_pkcs11.so.1`,
  '/usr/lib64/pkcs11/libtpm2_pkcs11.so',
].find(existsSync);

/** What is missing here for a software TPM; empty when nothing. */
export function missingTpmParts(): readonly string[] {
  const path = (process.env['PATH'] ?? '').split(':').concat('/usr/sbin');
  const absent = programs.filter((name) => !path.some((folder) => existsSync(join(folder, name))));
  return tpmModule === undefined ? [...absent, 'libtpm2_pkcs11'] : absent;
}

/** A software TPM with the token `ca`, for processes started from now on. */
export interface SoftTpm {
  /** Checked settings that name the token. */
  config(settings?: object): ReturnType<typeof pkcs11Config.parse>;
  stop(): Promise<void>;
}

/** Starts a TPM, a message bus of its own and the resource manager between them, with all that they keep in `dir`. */
export async function startSoftTpm(dir: string): Promise<SoftTpm> {
  const [state, store, pinFile] = ['state', 'store', 'pin'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  for (const folder of [state, store]) await mkdir(folder);
  const processes: ChildProcess[] = [];
  const start = (program: string, args: readonly string[], fd3?: string) => {
    const stdio = ['ignore', 'ignore', 'ignore', ...(fd3 === undefined ? [] : [openSync(fd3, 'w')])] as const;
    processes.push(spawn(program, args, { stdio: [...stdio] }));
  };
  const socket = join(dir, 'tpm');
  start('swtpm', [
    ...['socket', '--tpm2', '--tpmstate', `dir=${state}`, '--flags', 'not-need-init,startup-clear'],
    ...['--server', `type=unixio,path=${socket}`, '--ctrl', `type=unixio,path=${socket}.ctrl`],
  ]);
  const address = join(dir, 'bus');
  start('dbus-daemon', ['--session', '--nofork', '--print-address=3'], address);
  await eventually(() => {
    if (!existsSync(socket) || !readFileSync(address, 'utf8').includes('\n')) throw new Error('not yet');
  });
  const before = { ...process.env };
  const manager = 'tabrmd:bus_type=session';
  Object.assign(process.env, {
    DBUS_SESSION_BUS_ADDRESS: readFileSync(address, 'utf8').trim(),
    TPM2TOOLS_TCTI: manager,
    TPM2_PKCS11_TCTI: manager,
    TPM2_PKCS11_STORE: store,
    PATH: `${process.env['PATH']}:/usr/sbin`,
  });
  start('tpm2-abrmd', ['--session', '--allow-root', '--flush-all', `--tcti=swtpm:path=${socket}`]);
  await eventually(() => run('tpm2_getrandom', ['1']));
  await run('tpm2_ptool', ['init']);
  const pin = 'pin-of-the-tpm';
  await run('tpm2_ptool', ['addtoken', '--pid=1', '--label=ca', '--sopin=so-pin', `--userpin=${pin}`]);
  await writeFile(pinFile, pin, { mode: 0o600 });
  return {
    config: (settings = {}) =>
      pkcs11Config.parse({ module: tpmModule, tokenLabel: 'ca', pinFile, ...settings }),
    async stop() {
      process.env = before;
      for (const child of processes.reverse()) {
        const ended = new Promise((resolve) => child.once('exit', resolve));
        if (child.exitCode === null && child.kill('SIGKILL')) await ended;
      }
    },
  };
}
