import type { Command } from 'commander';
import type { AdminClient } from '../clients/admin/admin-client.ts';
import type { CreatedEntry } from '../clients/admin/entry-client.ts';
import { AppError, isAppError } from '../runtime/error.ts';
import { systemClock } from '../runtime/time.ts';
import { type NewEntry, newEntry } from '../spiffe/registration-entry.ts';
import { type SpiffeId, serverIdOf } from '../spiffe/spiffe-id.ts';
import { command, WrongUsage, withServer, withServerOptions } from './command.ts';
import { parseEntries } from './entry-document.ts';
import {
  changesOf,
  type EntryOptions,
  listEntries,
  namesFields,
  showEntry,
  warnOfOpenSelectors,
  withEntryOptions,
} from './entry-options.ts';
import { readInput } from './input.ts';
import { remark } from './output.ts';
import { Progress } from './progress.ts';

type CreateOptions = EntryOptions & { readonly data?: string };

/** `signet entry create`. */
export function createCommand(): Command {
  const create = withServerOptions(
    command(
      'create',
      'register a workload, or all of a file',
      'signet entry create --spiffe-id spiffe://example.org/web --parent AGENT-ID --selector unix:uid:1001\n' +
        'signet entry create --data entries.json\n' +
        'signet entry list -o json | signet entry create --data - --socket OTHER-SOCKET',
    ),
  )
    .option('--data <file>', 'create the entries of a JSON or YAML file, however many; - reads stdin')
    .option('--id <id>', 'choose the entry id; default: a random UUID');
  return withEntryOptions(create).action(async (options: CreateOptions) => {
    const { data, spiffeId } = options;
    if (spiffeId === undefined && data === undefined) {
      throw new WrongUsage('entry create needs --spiffe-id, or --data FILE');
    }
    if (data !== undefined && namesFields(options)) {
      throw new WrongUsage(
        'with --data FILE the file says all of each entry: leave out the options of one entry',
      );
    }
    await withServer(options, async (client, signal) => {
      if (data === undefined) return createOne(options, client, signal);
      const { wanted, where } = await entriesFrom(data);
      for (const entry of wanted) warnOfOpenSelectors(entry.selectors);
      const created = await createAll({ client, wanted, where, signal });
      listEntries(
        created.map(({ entry }) => entry),
        options,
      );
      summarize(created, wanted.length, where);
    });
  });
}

async function createOne(options: CreateOptions, client: AdminClient, signal: AbortSignal): Promise<void> {
  const wanted = await fromOptions(options, client, signal);
  warnOfOpenSelectors(wanted.selectors);
  const created = await client.entries.create([wanted], { signal });
  for (const { entry, existed } of created) {
    if (existed)
      remark(`signet: entry ${entry.id} with this parent, ID and selectors exists already; unchanged`);
    showEntry(entry, options);
  }
}

/** Creates them batch by batch; goes on when an entry is refused, and says which and why. */
async function createAll(bulk: {
  readonly client: AdminClient;
  readonly wanted: readonly NewEntry[];
  readonly where: string;
  readonly signal: AbortSignal;
}): Promise<readonly CreatedEntry[]> {
  const { client, wanted, where, signal } = bulk;
  const total = wanted.length;
  const progress = new Progress({ what: 'entries', total, clock: systemClock, stream: process.stderr });
  const created: CreatedEntry[] = [];
  let done = 0;
  try {
    for await (const results of client.entries.createInBatches(wanted, { signal })) {
      progress.clear();
      for (const result of results) {
        if (!isAppError(result)) created.push(result);
        else remark(`signet: ${where}: [${done}] ${wanted[done]?.spiffeId}: ${result.message}`);
        done += 1;
      }
      progress.update(done);
    }
  } catch (error) {
    if (!isAppError(error)) throw error;
    throw new AppError(
      error.code,
      `${where}: stopped at [${done}] of ${total}: ${error.message}; ` +
        'run the command again: it leaves those as they are that exist already',
    );
  } finally {
    progress.clear();
  }
  return created;
}

async function entriesFrom(file: string): Promise<{ wanted: readonly NewEntry[]; where: string }> {
  const { bytes, name } = await readInput(file, 'entries');
  return { wanted: parseEntries(bytes.toString('utf8'), name), where: name };
}

function summarize(created: readonly CreatedEntry[], wanted: number, where: string): void {
  const existed = created.filter((result) => result.existed).length;
  if (existed > 0) remark(`signet: ${where}: ${existed} of ${wanted} existed already; unchanged`);
  if (created.length === wanted) return;
  throw new AppError('aborted', `${where}: ${wanted - created.length} of ${wanted} entries were not created`);
}

async function fromOptions(
  options: EntryOptions,
  client: AdminClient,
  signal: AbortSignal,
): Promise<NewEntry> {
  const { spiffeId } = options;
  if (spiffeId === undefined) throw new WrongUsage('--spiffe-id is needed');
  const parentId = options.node
    ? serverIdOf(spiffeId.trustDomain)
    : await parentFrom(options, client, signal);
  const blank = newEntry({ id: options.id ?? '', spiffeId, parentId, selectors: [] });
  return { ...blank, ...changesOf(options, { ...blank, revision: 0, createdAt: 0 }) };
}

async function parentFrom(
  options: EntryOptions,
  client: AdminClient,
  signal: AbortSignal,
): Promise<SpiffeId> {
  if (options.parent !== undefined) return options.parent;
  const agents = await client.agents.list({ signal });
  const [only] = agents;
  if (only !== undefined && agents.length === 1) return only.id;
  const found = agents.length === 0 ? 'no agent has joined yet' : `${agents.length} agents have joined`;
  throw new AppError(
    'invalid-argument',
    `--parent is needed: ${found}; it is the agent's SPIFFE ID, or use --node`,
  );
}
