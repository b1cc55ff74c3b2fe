import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from './checkout.ts';

/** A path validation that others have written. */
export interface PathVerifier {
  readonly name: string;
  /** `OK`, or what is wrong; files are PEM, the chain begins with its leaf and has no root. */
  verdict(rootsFile: string, chainFile: string): string;
}

/** OpenSSL, and those of Go and GnuTLS that are installed; `dir` is for files of theirs. */
export function pathVerifiers(dir: string): readonly PathVerifier[] {
  const go = join(dir, 'verify-chain');
  return [
    { name: 'OpenSSL', verdict: opensslVerdict },
    ...(isThere('go', 'version') && buildGo(go)
      ? [{ name: 'Go', verdict: (...files: [string, string]) => said(go, files) }]
      : []),
    ...(isThere('certtool', '--version') ? [{ name: 'GnuTLS', verdict: gnutlsVerdict }] : []),
  ];
}

/** For what a leaf is used for: as server and as client. */
function opensslVerdict(rootsFile: string, chainFile: string): string {
  const strict = ['-x509_strict', '-check_ss_sig', '-CAfile', rootsFile, '-untrusted', chainFile];
  const verdicts = ['sslserver', 'sslclient'].map((purpose) =>
    said('openssl', ['verify', '-purpose', purpose, ...strict, chainFile]),
  );
  return verdicts.find((verdict) => verdict !== `${chainFile}: OK`) ?? 'OK';
}

function gnutlsVerdict(rootsFile: string, chainFile: string): string {
  const text = said('certtool', ['--verify', '--load-ca-certificate', rootsFile, '--infile', chainFile]);
  return /^Chain verification output: Verified\. The certificate is trusted\.\s*$/m.test(text) ? 'OK' : text;
}

function buildGo(program: string): boolean {
  const source = `${checkout}e2e/support/verify-chain.go`;
  const env = { ...process.env, GO111MODULE: 'off', CGO_ENABLED: '0', GOFLAGS: '' };
  return spawnSync('go', ['build', '-o', program, source], { env }).status === 0;
}

const isThere = (command: string, option: string) => spawnSync(command, [option]).status === 0;

function said(command: string, args: readonly string[]): string {
  const { stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  return `${stdout}${stderr}`.trim();
}

/** Writes PEM texts into one file; returns its path. */
export function writePem(dir: string, name: string, ...texts: readonly string[]): string {
  const path = join(dir, name);
  writeFileSync(path, texts.join(''));
  return path;
}
