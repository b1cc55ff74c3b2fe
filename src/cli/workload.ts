import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { WorkloadX509Update } from '../clients/workload-client.ts';
import { WorkloadClient } from '../clients/workload-client.ts';
import { createLogger } from '../runtime/log.ts';
import { loggerOf } from '../runtime/log-settings.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import { command, defaultWorkloadSocket, interruption, noun, requireSocket, withOutput } from './command.ts';
import {
  type BundleFileOptions,
  type FileOptions,
  wantsFiles,
  withBundleFileOptions,
  withX509FileOptions,
  type X509FileOptions,
} from './file-set/file-options.ts';
import { type FileWriting, writeBundleFiles, writeX509Files } from './file-set/write-files.ts';
import { type OutputFormat, print, printRecord, printRows, type Row, remark } from './output.ts';

interface WorkloadOptions {
  readonly socket?: string;
  readonly watch?: boolean;
  readonly output: OutputFormat;
  readonly quiet?: boolean;
}

/** `signet workload`: a client of the Workload API, for whoever runs it. */
export function workloadCommand(): Command {
  return noun('workload', 'a Workload API client', [x509Command(), bundlesCommand()]);
}

function x509Command(): Command {
  const x509 = command(
    'x509',
    'show the X.509-SVIDs that this process gets, or write one as files for an application that reads files',
    'signet workload x509 --watch\n' +
      'signet workload x509 --write-to /run/web/svid --run systemctl reload nginx\n' +
      'signet workload x509 --write-to /run/db/svid --pid-file /run/db/postmaster.pid',
  );
  return withX509FileOptions(withWorkloadOptions(x509)).action(
    async (args: string[], options: WorkloadOptions & X509FileOptions, self: Command) => {
      if (wantsFiles(options, self)) return await writing(options, args, writeX509Files);
      await shown(options, {
        fetch: (client, signal) => client.fetchX509Svids({ signal }),
        watch: (client, signal) => client.watchX509Svids(signal),
        show: showIdentities,
      });
    },
  );
}

function bundlesCommand(): Command {
  const bundles = command(
    'bundles',
    'show the trust bundles that this process gets, or write them as files',
    'signet workload bundles -o json\nsignet workload bundles --write-to /run/web/bundles --run systemctl reload nginx',
  );
  return withBundleFileOptions(withWorkloadOptions(bundles)).action(
    async (args: string[], options: WorkloadOptions & BundleFileOptions, self: Command) => {
      if (wantsFiles(options, self)) return await writing(options, args, writeBundleFiles);
      await shown(options, {
        fetch: (client, signal) => client.fetchX509Bundles({ signal }),
        watch: (client, signal) => client.watchX509Bundles(signal),
        show: showBundles,
      });
    },
  );
}

function withWorkloadOptions(target: Command): Command {
  return withOutput(target)
    .option('--socket <path>', 'the workload socket; default: SPIFFE_ENDPOINT_SOCKET, then the default path')
    .option('--watch', 'stay and print each update');
}

async function writing<Options extends FileOptions & WorkloadOptions & { readonly writeTo: string }>(
  options: Options,
  args: readonly string[],
  write: (writing: FileWriting<Options>) => Promise<void>,
): Promise<void> {
  const mayWait = options.once !== true || options.wait !== undefined;
  const log = loggerOf({ level: 'info' });
  const client = WorkloadClient.connect(endpoint(options, mayWait), { log });
  try {
    await write({ client, options, args, log, signal: interruption() });
  } finally {
    client.close();
  }
}

async function shown<Update>(
  options: WorkloadOptions,
  source: {
    readonly fetch: (client: WorkloadClient, signal: AbortSignal) => Promise<Update>;
    readonly watch: (client: WorkloadClient, signal: AbortSignal) => AsyncIterable<Update>;
    readonly show: (update: Update, options: WorkloadOptions) => void;
  },
): Promise<void> {
  const watches = options.watch === true;
  // Who watches is told why nothing comes.
  const log = createLogger({ level: 'warn', format: 'pretty' });
  const client = WorkloadClient.connect(endpoint(options, watches), { log });
  const signal = interruption();
  try {
    if (!watches) return source.show(await source.fetch(client, signal), options);
    for await (const update of source.watch(client, signal)) source.show(update, options);
  } finally {
    client.close();
  }
}

/** `mayWait`: it is no error that the agent does not run yet. */
function endpoint(options: WorkloadOptions, mayWait: boolean): string {
  const known = options.socket === undefined ? process.env['SPIFFE_ENDPOINT_SOCKET'] : undefined;
  if (known !== undefined && known !== '') return known;
  const path = resolve(options.socket ?? defaultWorkloadSocket);
  if (!mayWait) {
    const how = '--socket PATH or SPIFFE_ENDPOINT_SOCKET';
    requireSocket(path, 'agent', how, 'signet agent run --config agent.yaml');
  }
  return `unix://${path}`;
}

function showIdentities(update: WorkloadX509Update, options: WorkloadOptions): void {
  if (update.svids.length === 0) remark('signet: this process has no identity any more');
  const rows: Row[] = update.svids.map(({ svid, hint }) => ({
    spiffeId: svid.id.toString(),
    serial: svid.chain[0]?.serialHex ?? '',
    notAfter: new Date(svid.notAfterMs).toISOString(),
    hint,
    bundles: [...update.bundles.keys()],
  }));
  showRows(rows, ['spiffeId', 'notAfter', 'hint'], options);
}

function showBundles(bundles: ReadonlyMap<string, Bundle>, options: WorkloadOptions): void {
  if (bundles.size === 0) remark('signet: this process may have no bundle any more');
  const rows: Row[] = [...bundles.values()].map((bundle) => ({
    trustDomain: bundle.trustDomain.name,
    fingerprints: bundle.certificates().map((root) => `sha256:${root.fingerprint}`),
    // The table is for people, who would look for their place in it.
    ...(options.output === 'table' ? {} : { pem: bundle.toPem() }),
  }));
  showRows(rows, ['trustDomain', 'fingerprints'], options);
}

/** Each row begins with its ID. */
function showRows(rows: readonly Row[], columns: readonly string[], options: WorkloadOptions): void {
  const [id = ''] = columns;
  if (options.quiet) for (const row of rows) print(String(row[id]));
  else if (options.watch === true && options.output === 'json') print(JSON.stringify(rows));
  else if (options.output === 'table' && rows[0] !== undefined && rows.length === 1)
    printRecord(rows[0], 'table');
  else printRows(rows, columns, options.output);
}
