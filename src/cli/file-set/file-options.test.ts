import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { CapturedOutput } from '../../testing/captured-output.ts';
import { WrongUsage, withConventions, withOutput } from '../command.ts';
import {
  type BundleFileOptions,
  parseFileName,
  wantsFiles,
  withBundleFileOptions,
  withX509FileOptions,
  type X509FileOptions,
  x509Layout,
} from './file-options.ts';

/** Parses the words behind `workload x509`; what the action gets. */
async function x509(...words: string[]) {
  let result: { options: X509FileOptions; args: string[]; wants: boolean } | undefined;
  const target = withX509FileOptions(withOutput(withConventions(new Command('x509'))));
  target.option('--watch').action((args: string[], options: X509FileOptions, self: Command) => {
    const wants = wantsFiles(options, self);
    x509Layout(options);
    result = { options, args, wants };
  });
  await target.parseAsync(words, { from: 'user' });
  return result!;
}

const to = ['--write-to', '/d'];

describe('the options for files', () => {
  it('have defaults that keep the key private', async () => {
    const { options, wants } = await x509(...to);
    expect(wants).toBe(true);
    expect(options).toMatchObject({
      certName: 'svid.pem',
      keyName: 'svid_key.pem',
      bundleName: 'bundle.pem',
      certMode: 0o644,
      keyMode: 0o600,
      chain: 'joined',
      federated: 'files',
      onWithdraw: 'keep',
      runTimeout: 30,
    });
    expect((await x509()).wants).toBe(false);
    expect((await x509('--watch', '-o', 'json')).wants).toBe(false);
  });

  it('leave the options of a command alone', async () => {
    const { options, args } = await x509(...to, '--run', 'nginx', '--', '-s', 'reload', '--once');
    expect(options).toMatchObject({ run: 'nginx' });
    expect(options.once).toBeUndefined();
    expect(args).toEqual(['-s', 'reload', '--once']);
    expect((await x509(...to, '--run', 'systemctl', 'reload', 'nginx')).args).toEqual(['reload', 'nginx']);
  });

  it.each([
    ['--signal', 'SIGUSR1'],
    ['--signal', 'USR1'],
  ])('take a signal by either name: %s %s', async (...words) => {
    expect((await x509(...to, ...words, '--pid', '4')).options.signal).toBe('USR1');
  });

  it('take a key for a group, and for everybody only when that is said', async () => {
    expect((await x509(...to, '--key-mode', '0640')).options.keyMode).toBe(0o640);
    expect((await x509(...to, '--key-mode', '644', '--allow-world-readable-key')).options.keyMode).toBe(
      0o644,
    );
    await expect(x509(...to, '--key-mode', '0644')).rejects.toThrow(
      /every user .*--allow-world-readable-key/,
    );
    await expect(x509(...to, '--key-mode', '0604')).rejects.toThrow(WrongUsage);
  });

  it.each<{ name: string; words: string[]; says: RegExp }>([
    { name: 'without a directory', words: ['--cert-name', 'a'], says: /--cert-name needs --write-to DIR/ },
    { name: 'once without a directory', words: ['--once'], says: /--once needs --write-to/ },
    {
      name: 'two equal names',
      words: [...to, '--cert-name', 'a', '--key-name', 'a'],
      says: /both be named "a"/,
    },
    {
      name: 'a combined file like another',
      words: [...to, '--combined-name', 'svid.pem'],
      says: /"svid.pem"/,
    },
    { name: 'once and for ever', words: [...to, '--once', '--watch'], says: /not both/ },
    { name: 'waiting for ever anyway', words: [...to, '--wait', '5s'], says: /--wait belongs to --once/ },
    { name: 'a signal to nobody', words: [...to, '--signal', 'HUP'], says: /--signal needs --pid/ },
    { name: 'two processes', words: [...to, '--pid', '4', '--pid-file', 'f'], says: /not both/ },
    { name: 'arguments of nothing', words: [...to, 'reload'], says: /unexpected "reload".*--run/ },
    { name: 'a stray word', words: ['reload'], says: /unexpected "reload"/ },
  ])('that mean nothing together are wrong usage: $name', async ({ words, says }) => {
    const wrong = x509(...words);
    await expect(wrong).rejects.toThrow(says);
    await expect(wrong).rejects.toThrow(WrongUsage);
  });

  it.each<{ name: string; words: string[]; says: string }>([
    { name: 'a mode that is none', words: ['--key-mode', 'rw'], says: 'octal permissions' },
    { name: 'a key that others may write', words: ['--key-mode', '0620'], says: 'octal permissions' },
    { name: 'a program', words: ['--cert-mode', '0755'], says: 'octal permissions' },
    { name: 'a set-user-ID bit', words: ['--cert-mode', '4644'], says: 'octal permissions' },
    { name: 'a file not for its owner', words: ['--cert-mode', '0044'], says: 'octal permissions' },
    { name: 'a directory in a name', words: ['--key-name', '../key'], says: 'expected a file name' },
    { name: 'a deadly signal', words: ['--signal', 'KILL', '--pid', '4'], says: 'HUP' },
    { name: 'all processes', words: ['--pid', '0'], says: 'expected a process ID' },
    { name: 'an unknown place', words: ['--chain', 'elsewhere'], says: 'joined, split, bundle' },
    { name: 'an owner that is none', words: ['--owner', ''], says: 'USER:GROUP' },
    { name: 'a SPIFFE ID that is none', words: ['--spiffe-id', 'web'], says: 'spiffe://' },
  ])('are refused: $name', async ({ words, says }) => {
    const output = new CapturedOutput();
    await expect(x509(...to, ...words)).rejects.toMatchObject({ code: 'commander.invalidArgument' });
    expect(output.stderr).toContain(says);
  });

  it('of bundles are those without a key', async () => {
    let parsed: BundleFileOptions | undefined;
    const target = withBundleFileOptions(withConventions(new Command('bundles')));
    target.action((_args: string[], options: BundleFileOptions) => {
      parsed = options;
    });
    await target.parseAsync([...to, '--format', 'spiffe'], { from: 'user' });
    expect(parsed).toMatchObject({ writeTo: '/d', format: 'spiffe', certMode: 0o644 });
    const output = new CapturedOutput();
    await expect(target.parseAsync([...to, '--key-name', 'k'], { from: 'user' })).rejects.toThrow();
    expect(output.stderr).toContain('--key-name');
  });
});

describe('a file name', () => {
  it.each(['svid.pem', 'tls.crt', 'a', '_', 'x'.repeat(200)])('is %s', (name) => {
    expect(parseFileName(name)).toBe(name);
  });

  it.each([
    '',
    '.',
    '..',
    '.hidden',
    'a/b',
    '/a',
    'a\0',
    'a b',
    'ä',
    'current',
    'federated.a.pem',
    'x'.repeat(201),
  ])('is not %j', (name) => {
    expect(() => parseFileName(name)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });
});
