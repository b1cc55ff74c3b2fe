import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Certificate } from '../x509/certificate.ts';

/** Runs `openssl` with this input; its output, or an Error with what it said. */
export function openssl(args: readonly string[], input: string | Uint8Array = ''): Buffer {
  const { status, stdout, stderr } = spawnSync('openssl', args, { input });
  if (status !== 0) throw new Error(`openssl ${args.join(' ')}: ${stderr}${stdout}`);
  return stdout;
}

/** A certificate request made by `openssl req` with these arguments, such as `-newkey rsa:2048`; DER. */
export function opensslCsr(args: readonly string[]): Buffer {
  const directory = mkdtempSync(join(tmpdir(), 'signet-openssl-'));
  try {
    const key = ['-nodes', '-keyout', join(directory, 'key.pem')];
    return openssl(['req', '-new', ...key, '-subj', '/C=US', '-outform', 'DER', ...args]);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** What `openssl verify` says about the path: `OK`, or its first error, such as `certificate has expired`. */
export function opensslVerdict(path: {
  readonly leaf: Certificate;
  readonly intermediates: readonly Certificate[];
  readonly anchors: readonly Certificate[];
  readonly nowMs: number;
}): string {
  const directory = mkdtempSync(join(tmpdir(), 'signet-openssl-'));
  try {
    const write = (name: string, certificates: readonly Certificate[]): string => {
      const file = join(directory, name);
      writeFileSync(file, certificates.map((certificate) => certificate.toPem()).join(''));
      return file;
    };
    const args = ['verify', '-partial_chain', '-attime', String(Math.floor(path.nowMs / 1000))];
    args.push('-trusted', write('anchors.pem', path.anchors));
    if (path.intermediates.length > 0)
      args.push('-untrusted', write('intermediates.pem', path.intermediates));
    const { status, stderr } = spawnSync('openssl', [...args, write('leaf.pem', [path.leaf])]);
    return status === 0
      ? 'OK'
      : (/error \d+ at \d+ depth lookup: (.*)/.exec(String(stderr))?.[1] ?? String(stderr));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
