import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { WorkloadClient, WorkloadX509Update } from '../../clients/workload-client.ts';
import { AppError, isAppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { type Clock, systemClock } from '../../runtime/time.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { parsePemCertificates } from '../../x509/certificate.ts';
import { chosenIdentity } from './chosen-identity.ts';
import { currentLink, FileDirectory } from './file-directory.ts';
import { FileKeeper, type Wanted, type WantedFiles } from './file-keeper.ts';
import {
  type BundleFileOptions,
  type FileOptions,
  type X509FileOptions,
  x509Layout,
} from './file-options.ts';
import { resolveOwner } from './file-owner.ts';
import { planBundleFiles, planX509Files } from './file-plan.ts';
import { nodeFileSystem } from './file-system.ts';
import { Notifier } from './notifier.ts';
import type { Reload } from './reload.ts';
import { commandReload } from './reload-command.ts';
import { signalReload } from './reload-signal.ts';

/** What writing files needs. */
export interface FileWriting<Options> {
  readonly client: WorkloadClient;
  readonly options: Options & { readonly writeTo: string };
  /** Arguments of the command of --run. */
  readonly args: readonly string[];
  readonly log: Logger;
  readonly signal: AbortSignal;
  readonly clock?: Clock;
}

/** A stream of the Workload API, and what one update of it is as files. */
interface Source<Update> {
  fetch(signal: AbortSignal): Promise<Update>;
  watch(signal: AbortSignal): AsyncIterable<Update>;
  /** Undefined when there is nothing in it that is asked for. */
  plan(update: Update): Wanted;
  /** Why `plan` found nothing. */
  missing(update: Update): AppError;
}

/** Writes an X.509 identity as files, once or until `signal` aborts. */
export async function writeX509Files(writing: FileWriting<X509FileOptions>): Promise<void> {
  const { client, options } = writing;
  const layout = x509Layout(options);
  const source: Source<WorkloadX509Update> = {
    fetch: (signal) => client.fetchX509Svids({ signal }),
    watch: (signal) => client.watchX509Svids(signal),
    plan: (update) => {
      const identity = chosenIdentity(update, options);
      if (identity === undefined) return undefined;
      const { svid } = identity;
      return {
        files: planX509Files(identity, update.bundles, layout),
        expiresAtMs: svid.notAfterMs,
        about: { spiffeId: svid.id, serial: svid.leaf.serialHex, notAfter: new Date(svid.notAfterMs) },
      };
    },
    missing: ({ svids }) => {
      const has = svids.map(
        ({ svid, hint }) => `"${svid.id}"${hint === '' ? '' : ` (hint ${JSON.stringify(hint)})`}`,
      );
      return new AppError(
        'not-found',
        has.length === 0
          ? 'this process has no identity (any more)'
          : `this process does not have the identity asked for; it has ${has.join(', ')}`,
      );
    },
  };
  await write(writing, source, options.certName);
}

/** Writes trust bundles as files, once or until `signal` aborts. */
export async function writeBundleFiles(writing: FileWriting<BundleFileOptions>): Promise<void> {
  const { client, options } = writing;
  await write<ReadonlyMap<string, Bundle>>(writing, {
    fetch: (signal) => client.fetchX509Bundles({ signal }),
    watch: (signal) => client.watchX509Bundles(signal),
    plan: (bundles) =>
      bundles.size === 0
        ? undefined
        : {
            files: planBundleFiles(bundles, { format: options.format, mode: options.certMode }),
            expiresAtMs: undefined,
            about: { trustDomains: [...bundles.keys()] },
          },
    missing: () => new AppError('not-found', 'this process may have no bundle (any more)'),
  });
}

async function write<Update>(
  writing: FileWriting<FileOptions>,
  source: Source<Update>,
  certName?: string,
): Promise<void> {
  const { options, log, signal, clock = systemClock } = writing;
  const owner = options.owner === undefined ? undefined : await resolveOwner(options.owner);
  const directory = await FileDirectory.open(resolve(options.writeTo), {
    files: nodeFileSystem,
    clock,
    owner,
  });
  try {
    const notifier = new Notifier({ clock, log }, reloadsOf(writing, clock));
    if (options.once === true) {
      const wanted = await firstSet(source, writing);
      await directory.replace(wanted.files);
      await directory.prune();
      log.info({ directory: directory.path, ...wanted.about }, 'files written');
      return await notifier.once(signal);
    }
    const { onWithdraw } = options;
    const expiresAtMs = certName === undefined ? undefined : await expiryOf(directory.path, certName);
    const keeper = new FileKeeper({ directory, notifier, clock, log, onWithdraw }, expiresAtMs);
    await keeper.run((until) => planned(source, until, log), signal);
  } finally {
    await directory.close();
  }
}

async function* planned<Update>(
  source: Source<Update>,
  signal: AbortSignal,
  log: Logger,
): AsyncGenerator<Wanted, void, undefined> {
  let wasThere = true;
  for await (const update of source.watch(signal)) {
    const wanted = source.plan(update);
    if (wanted === undefined && wasThere)
      log.warn({ problem: source.missing(update).message }, 'nothing to write');
    wasThere = wanted !== undefined;
    yield wanted;
  }
}

/** At once, or as soon as it is there within `--wait`. */
async function firstSet<Update>(
  source: Source<Update>,
  { options, signal, log, clock = systemClock }: FileWriting<FileOptions>,
): Promise<WantedFiles> {
  if (options.wait === undefined) {
    const update = await source.fetch(signal);
    const wanted = source.plan(update);
    if (wanted === undefined) throw source.missing(update);
    return wanted;
  }
  const over = new AbortController();
  void clock.sleep(options.wait * 1000, over.signal).then(() => over.abort());
  try {
    for await (const wanted of planned(source, AbortSignal.any([signal, over.signal]), log)) {
      if (wanted !== undefined) return wanted;
    }
  } finally {
    over.abort();
  }
  if (signal.aborted) throw new AppError('cancelled', 'stopped before there was anything to write');
  throw new AppError(
    'deadline-exceeded',
    `nothing to write within ${options.wait} s; the lines above say why`,
  );
}

function reloadsOf({ options, args }: FileWriting<FileOptions>, clock: Clock): readonly Reload[] {
  const { pid, pidFile, signal = 'HUP', run, runTimeout } = options;
  const target =
    pid !== undefined ? { pid } : pidFile !== undefined ? { pidFile: resolve(pidFile) } : undefined;
  return [
    ...(target === undefined ? [] : [signalReload(signal, target)]),
    ...(run === undefined
      ? []
      : [commandReload({ command: run, args, timeoutMs: runTimeout * 1000 }, clock)]),
  ];
}

/** Of the certificate that an earlier run has left; undefined when there is none that can be read. */
async function expiryOf(directory: string, certName: string): Promise<number | undefined> {
  try {
    const [leaf] = parsePemCertificates(await readFile(join(directory, currentLink, certName), 'utf8'));
    return leaf?.notAfterMs;
  } catch (error) {
    if (isAppError(error) || (error instanceof Error && 'code' in error)) return undefined;
    throw error;
  }
}
