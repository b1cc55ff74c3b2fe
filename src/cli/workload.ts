import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { WorkloadX509Update } from '../clients/workload-client.ts';
import { WorkloadClient } from '../clients/workload-client.ts';
import { createLogger } from '../runtime/log.ts';
import { command, defaultWorkloadSocket, interruption, noun, requireSocket, withOutput } from './command.ts';
import { type OutputFormat, print, printRecord, printRows, type Row, remark } from './output.ts';

interface WorkloadOptions {
  readonly socket?: string;
  readonly watch?: boolean;
  readonly output: OutputFormat;
  readonly quiet?: boolean;
}

/** `signet workload`: a client of the Workload API, for whoever runs it. */
export function workloadCommand(): Command {
  const x509 = withOutput(
    command(
      'x509',
      'show the X.509-SVIDs that this process gets; private keys are never printed',
      'signet workload x509 --watch',
    ),
  )
    .option('--socket <path>', 'the workload socket; default: SPIFFE_ENDPOINT_SOCKET, then the default path')
    .option('--watch', 'stay and print each update')
    .action(async (options: WorkloadOptions) => {
      // Who watches is told why nothing comes.
      const log = createLogger({ level: 'warn', format: 'pretty' });
      const client = WorkloadClient.connect(endpoint(options), { log });
      const signal = interruption();
      try {
        if (options.watch !== true) return show(await client.fetchX509Svids({ signal }), options);
        for await (const update of client.watchX509Svids(signal)) show(update, options);
      } finally {
        client.close();
      }
    });
  return noun('workload', 'a Workload API client', [x509]);
}

function endpoint(options: WorkloadOptions): string {
  const known = options.socket === undefined ? process.env['SPIFFE_ENDPOINT_SOCKET'] : undefined;
  if (known !== undefined && known !== '') return known;
  const path = resolve(options.socket ?? defaultWorkloadSocket);
  // Who watches may wait for the agent.
  if (options.watch !== true) {
    const how = '--socket PATH or SPIFFE_ENDPOINT_SOCKET';
    requireSocket(path, 'agent', how, 'signet agent run --config agent.yaml');
  }
  return `unix://${path}`;
}

function show(update: WorkloadX509Update, options: WorkloadOptions): void {
  if (update.svids.length === 0) remark('signet: this process has no identity any more');
  const rows: Row[] = update.svids.map(({ svid, hint }) => ({
    spiffeId: svid.id.toString(),
    serial: svid.chain[0]?.serialHex ?? '',
    notAfter: new Date(svid.notAfterMs).toISOString(),
    hint,
    bundles: [...update.bundles.keys()],
  }));
  if (options.quiet) for (const row of rows) print(String(row['spiffeId']));
  else if (options.watch === true && options.output === 'json') print(JSON.stringify(rows));
  else if (options.output === 'table' && rows[0] !== undefined && rows.length === 1)
    printRecord(rows[0], 'table');
  else printRows(rows, ['spiffeId', 'notAfter', 'hint'], options.output);
}
