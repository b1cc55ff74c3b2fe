import { type Command, InvalidArgumentError, Option } from 'commander';
import { AppError } from '../../runtime/error.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { parsedBy, seconds, WrongUsage } from '../command.ts';
import { currentLink } from './file-directory.ts';
import { withdrawals } from './file-keeper.ts';
import { type OwnerNames, parseOwner } from './file-owner.ts';
import {
  bundleFormats,
  chainPlaces,
  federatedPlaces,
  federatedPrefix,
  type X509Layout,
} from './file-plan.ts';
import { parsePid, type ReloadSignal, reloadSignals } from './reload-signal.ts';

/** What `workload x509` and `workload bundles` have in common for writing files. */
export interface FileOptions {
  readonly writeTo?: string;
  readonly once?: boolean;
  /** Seconds. */
  readonly wait?: number;
  readonly watch?: boolean;
  readonly certMode: number;
  readonly owner?: OwnerNames;
  readonly onWithdraw: (typeof withdrawals)[number];
  readonly signal?: ReloadSignal;
  readonly pid?: number;
  readonly pidFile?: string;
  readonly run?: string;
  /** Seconds. */
  readonly runTimeout: number;
}

/** The options of `workload x509` besides. */
export interface X509FileOptions extends FileOptions, Omit<X509Layout, 'combinedName'> {
  readonly combinedName?: string;
  readonly allowWorldReadableKey?: boolean;
  readonly spiffeId?: SpiffeId;
  readonly hint?: string;
}

/** The options of `workload bundles` besides. */
export interface BundleFileOptions extends FileOptions {
  readonly format: (typeof bundleFormats)[number];
}

const readableByAll = 0o644;
const readableByGroup = 0o640;

/** Adds the options of `workload x509` for files. */
export function withX509FileOptions(target: Command): Command {
  const name = parsedBy(parseFileName);
  const layout = target
    .option('--write-to <dir>', 'write the identity as files into this directory, and keep them up to date')
    .option(
      '--spiffe-id <id>',
      'with several identities: this one; default: the first',
      parsedBy(SpiffeId.parse),
    )
    .option('--hint <hint>', 'with several identities: the one with this hint')
    .option('--cert-name <file>', 'name of the certificate file', name, 'svid.pem')
    .option('--key-name <file>', 'name of the private key file', name, 'svid_key.pem')
    .option('--bundle-name <file>', 'name of the trust bundle file', name, 'bundle.pem')
    .option(
      '--intermediates-name <file>',
      'name of the file that --chain split makes',
      name,
      'intermediates.pem',
    )
    .option('--combined-name <file>', 'also write key and chain into one file of this name', name)
    .addOption(
      new Option(
        '--chain <place>',
        'intermediates: in the certificate file, in their own, or in the bundle file',
      )
        .choices(chainPlaces)
        .default('joined'),
    )
    .addOption(
      new Option(
        '--federated <place>',
        'other trust domains: a bundle file each, in the bundle file, or left out',
      )
        .choices(federatedPlaces)
        .default('files'),
    );
  return withFileOptions(
    layout
      .addOption(modeOption('--key-mode <octal>', 'permissions of files with the private key', 0o600))
      .option('--allow-world-readable-key', 'accept a --key-mode with which every user can read the key'),
  );
}

/** Adds the options of `workload bundles` for files. */
export function withBundleFileOptions(target: Command): Command {
  return withFileOptions(
    target
      .option(
        '--write-to <dir>',
        'write a file for each trust domain into this directory, and keep them up to date',
      )
      .addOption(
        new Option('--format <format>', 'of the files: pem, or spiffe for SPIFFE bundle documents')
          .choices(bundleFormats)
          .default('pem'),
      ),
  );
}

function withFileOptions(target: Command): Command {
  return target
    .argument('[args...]', 'arguments of the command of --run; behind -- when one begins with a dash')
    .addOption(modeOption('--cert-mode <octal>', 'permissions of files with certificates', 0o644))
    .option('--owner <user:group>', 'give the files to this user or group', parsedBy(parseOwner))
    .option('--once', 'end after the first set of files; default: stay and follow changes')
    .option(
      '--wait <duration>',
      'with --once: wait for an agent or an identity; default: fail at once',
      seconds,
    )
    .addOption(
      new Option('--on-withdraw <action>', 'what happens to the files when the identity is withdrawn')
        .choices(withdrawals)
        .default('keep'),
    )
    .addOption(
      new Option('--signal <name>', 'signal sent after each change; default: HUP')
        .choices(reloadSignals)
        .argParser(parsedBy(parseSignal)),
    )
    .option('--pid <number>', 'process to signal', parsedBy(parsePid))
    .option('--pid-file <file>', 'file with the process to signal, read each time')
    .option('--run <command>', 'program to run after each change, without a shell')
    .addOption(
      new Option('--run-timeout <duration>', 'end it when it takes longer')
        .argParser(seconds)
        .default(30, '30s'),
    );
}

function modeOption(flags: string, summary: string, bits: number): Option {
  return new Option(flags, summary).argParser(mode).default(bits, octal(bits));
}

/** Whether files are wanted; throws WrongUsage for options that mean nothing together. */
export function wantsFiles(
  options: FileOptions,
  command: Command,
): options is FileOptions & { writeTo: string } {
  if (options.writeTo === undefined) {
    const given = command.options.find(
      (option) => command.getOptionValueSource(option.attributeName()) === 'cli' && isForFiles(option.long),
    );
    if (given !== undefined) throw new WrongUsage(`${given.long} needs --write-to DIR`);
  }
  requireTogether(options, command.args);
  return options.writeTo !== undefined;
}

/** The layout that the options describe; throws WrongUsage. */
export function x509Layout(options: X509FileOptions): X509Layout {
  const names = [options.certName, options.keyName, options.bundleName, options.intermediatesName];
  const all = options.combinedName === undefined ? names : [...names, options.combinedName];
  const twice = all.find((name, index) => all.indexOf(name) !== index);
  if (twice !== undefined) throw new WrongUsage(`two files cannot both be named "${twice}"`);
  if ((options.keyMode & ~readableByGroup) !== 0 && options.allowWorldReadableKey !== true) {
    throw new WrongUsage(
      `--key-mode ${octal(options.keyMode)} lets every user of this machine read the private key; ` +
        'give the file to a group with --owner :GROUP --key-mode 0640, or say --allow-world-readable-key',
    );
  }
  return { ...options, combinedName: options.combinedName };
}

/** Plain names only: no directories, nothing hidden, nothing that we need ourselves. Throws `invalid-argument`. */
export function parseFileName(text: string): string {
  const isPlain = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$/.test(text);
  if (isPlain && text !== currentLink && !text.startsWith(federatedPrefix)) return text;
  throw new AppError(
    'invalid-argument',
    `expected a file name of letters, digits, ".", "_" and "-" that is not "${currentLink}" and does not begin ` +
      `with "." or "${federatedPrefix}", got ${JSON.stringify(text)}`,
  );
}

function parseSignal(text: string): ReloadSignal {
  const found = reloadSignals.find((name) => text === name || text === `SIG${name}`);
  if (found !== undefined) return found;
  throw new AppError('invalid-argument', `expected one of ${reloadSignals.join(', ')}`);
}

/** For nobody but the owner to write, and nobody to execute. */
function mode(text: string): number {
  const bits = /^0?[0-7]{3}$/.test(text) ? Number.parseInt(text, 8) : 0;
  if ((bits & 0o400) !== 0 && (bits & ~readableByAll) === 0) return bits;
  throw new InvalidArgumentError(
    `expected octal permissions within ${octal(readableByAll)} that let the owner read, such as 0640`,
  );
}

function octal(bits: number): string {
  return bits.toString(8).padStart(4, '0');
}

function isForFiles(long: string | undefined): boolean {
  return !['--socket', '--watch', '--output', '--quiet'].includes(long ?? '');
}

function requireTogether(options: FileOptions, args: readonly string[]): void {
  const { once, wait, watch, signal, pid, pidFile, run } = options;
  const target = pid ?? pidFile;
  if (run === undefined && args.length > 0)
    throw new WrongUsage(`unexpected "${args[0]}"; arguments belong to --run`);
  if (wait !== undefined && once !== true) throw new WrongUsage('--wait belongs to --once');
  if (watch === true && once === true) throw new WrongUsage('either --watch or --once, not both');
  if (pid !== undefined && pidFile !== undefined)
    throw new WrongUsage('either --pid or --pid-file, not both');
  if (signal !== undefined && target === undefined)
    throw new WrongUsage('--signal needs --pid or --pid-file');
}
