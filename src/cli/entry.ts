import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import type { AdminClient } from '../clients/admin/admin-client.ts';
import { AppError } from '../runtime/error.ts';
import { type NewEntry, newEntry, type RegistrationEntry } from '../spiffe/registration-entry.ts';
import { parseSelector, type Selector } from '../spiffe/selector.ts';
import { SpiffeId, serverIdOf, TrustDomain } from '../spiffe/spiffe-id.ts';
import {
  command,
  moment,
  noun,
  parsedBy,
  type ServerOptions,
  seconds,
  several,
  WrongUsage,
  withServer,
  withServerOptions,
} from './command.ts';
import { entryColumns, entryRow, parseEntries } from './entry-document.ts';
import { print, printRecord, printRows, remark } from './output.ts';

interface EntryOptions extends ServerOptions {
  readonly id?: string;
  readonly spiffeId?: SpiffeId;
  readonly parent?: SpiffeId;
  readonly node?: boolean;
  readonly selector?: readonly Selector[];
  readonly dns?: readonly string[];
  readonly x509Ttl?: number;
  readonly jwtTtl?: number;
  readonly federatesWith?: readonly TrustDomain[];
  readonly admin?: boolean;
  readonly downstream?: boolean;
  readonly hint?: string;
  readonly expires?: number;
  readonly data?: string;
}

/** `signet entry`: which workloads hold which identity. */
export function entryCommand(): Command {
  return noun('entry', 'registration entries: which workloads hold which identity', [
    createCommand(),
    updateCommand(),
    deleteCommand(),
    showCommand(),
    listCommand(),
  ]);
}

function createCommand(): Command {
  const create = withServerOptions(
    command(
      'create',
      'register a workload',
      'signet entry create --spiffe-id spiffe://example.org/web --parent AGENT-ID --selector unix:uid:1001\n' +
        'signet entry create --data entries.json',
    ),
  ).option('--data <file>', 'create the entries of a JSON or YAML file; - reads stdin');
  return entryOptions(create).action(async (options: EntryOptions) => {
    if (options.spiffeId === undefined && options.data === undefined) {
      throw new WrongUsage('entry create needs --spiffe-id, or --data FILE');
    }
    if (options.spiffeId !== undefined && options.data !== undefined) {
      throw new WrongUsage('entry create takes --spiffe-id or --data FILE, not both');
    }
    await withServer(options, async (client, signal) => {
      const wanted =
        options.data === undefined
          ? [await fromOptions(options, client, signal)]
          : await entriesFrom(options.data);
      for (const entry of wanted) warnOfOpenSelectors(entry.selectors);
      const created = await client.entries.create(wanted, { signal });
      for (const { entry, existed } of created) {
        if (existed)
          remark(`signet: entry ${entry.id} with this parent, ID and selectors exists already; unchanged`);
      }
      show(
        created.map(({ entry }) => entry),
        options,
      );
    });
  });
}

function updateCommand(): Command {
  const update = withServerOptions(
    command(
      'update',
      'change an entry; what is not named stays as it is',
      'signet entry update --id ENTRY-ID --selector unix:uid:1002 --x509-ttl 30m',
    ),
  ).requiredOption('--id <id>', 'the entry to change');
  return entryOptions(update, { withId: false }).action(async (options: EntryOptions & { id: string }) =>
    withServer(options, async (client, signal) => {
      const current = await client.entries.get(options.id, { signal });
      const updated = await client.entries.update({ ...current, ...changesOf(options, current) }, { signal });
      warnOfOpenSelectors(updated.selectors);
      show([updated], options);
    }),
  );
}

function deleteCommand(): Command {
  return withServerOptions(
    command(
      'delete <id...>',
      'delete entries; a running Envoy keeps its certificate until that expires',
      'signet entry delete 0b5a1c7e-…',
    ),
  ).action(async (ids: string[], options: ServerOptions) =>
    withServer(options, async (client, signal) => {
      await client.entries.delete(ids, { signal });
      if (options.output !== 'table')
        printRows(
          ids.map((id) => ({ id })),
          ['id'],
          options.output,
        );
      else for (const id of ids) print(options.quiet ? id : `deleted ${id}`);
    }),
  );
}

function showCommand(): Command {
  return withServerOptions(
    command('show <id>', 'show one entry', 'signet entry show 0b5a1c7e-… -o json'),
  ).action(async (id: string, options: ServerOptions) =>
    withServer(options, async (client, signal) => show([await client.entries.get(id, { signal })], options)),
  );
}

function listCommand(): Command {
  return withServerOptions(command('list', 'list entries', 'signet entry list --parent AGENT-ID -o json'))
    .option('--spiffe-id <id>', 'only entries with this SPIFFE ID', parsedBy(SpiffeId.parse))
    .option('--parent <id>', 'only entries below this parent', parsedBy(SpiffeId.parse))
    .action(async (options: ServerOptions & { spiffeId?: SpiffeId; parent?: SpiffeId }) =>
      withServer(options, async (client, signal) => {
        const entries = await client.entries.list({
          ...(options.spiffeId === undefined ? {} : { spiffeId: options.spiffeId }),
          ...(options.parent === undefined ? {} : { parentId: options.parent }),
          signal,
        });
        if (options.quiet) for (const entry of entries) print(entry.id);
        else printRows(entries.map(entryRow), entryColumns, options.output);
      }),
    );
}

function entryOptions(target: Command, { withId = true } = {}): Command {
  if (withId) target.option('--id <id>', 'choose the entry id; default: a random UUID');
  return target
    .option('--spiffe-id <id>', 'the identity, such as spiffe://example.org/web', parsedBy(SpiffeId.parse))
    .option(
      '--parent <id>',
      'SPIFFE ID of the agent or node alias below which it counts',
      parsedBy(SpiffeId.parse),
    )
    .option('--node', 'make a node alias: its selectors are those of agents')
    .option(
      '--selector <type:value>',
      'what the caller must be; all must hold; repeat',
      several(parseSelector),
    )
    .option('--dns <name>', 'a DNS name in the certificate; repeat', several(String))
    .option('--x509-ttl <duration>', 'lifetime of X.509-SVIDs', seconds)
    .option('--jwt-ttl <duration>', 'lifetime of JWT-SVIDs', seconds)
    .option(
      '--federates-with <trust-domain>',
      'also trust this domain; repeat',
      several(TrustDomain.parseNameOrId),
    )
    .option('--admin', 'the holder may administer the server')
    .option('--downstream', 'the holder is a downstream server')
    .option('--hint <text>', 'a hint for the workload which identity this is')
    .option('--expires <time>', 'when the entry ends, RFC 3339', moment);
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

function changesOf(options: EntryOptions, current: RegistrationEntry): Partial<NewEntry> {
  const parentId = options.node ? serverIdOf(current.spiffeId.trustDomain) : options.parent;
  return {
    ...(options.spiffeId === undefined ? {} : { spiffeId: options.spiffeId }),
    ...(parentId === undefined ? {} : { parentId }),
    ...(options.selector === undefined ? {} : { selectors: options.selector }),
    ...(options.dns === undefined ? {} : { dnsNames: options.dns }),
    ...(options.x509Ttl === undefined ? {} : { x509SvidTtlSeconds: options.x509Ttl }),
    ...(options.jwtTtl === undefined ? {} : { jwtSvidTtlSeconds: options.jwtTtl }),
    ...(options.federatesWith === undefined ? {} : { federatesWith: options.federatesWith }),
    ...(options.admin === undefined ? {} : { admin: options.admin }),
    ...(options.downstream === undefined ? {} : { downstream: options.downstream }),
    ...(options.hint === undefined ? {} : { hint: options.hint }),
    ...(options.expires === undefined ? {} : { expiresAt: options.expires }),
  };
}

/** A binary that anybody may start proves nothing about who started it. */
function warnOfOpenSelectors(selectors: readonly Selector[]): void {
  const names = (prefix: string) => selectors.some((s) => s.type === 'unix' && s.value.startsWith(prefix));
  const isOpen = names('path:') || names('sha256:');
  const isBound = names('uid:') || names('user:') || selectors.some((s) => s.type !== 'unix');
  if (!isOpen || isBound) return;
  remark(
    'signet: warning: unix:path or unix:sha256 alone matches anyone who may run that binary; add unix:uid:… ' +
      '(unix:path is the file that the agent sees there: it never matches inside a container with files of its own)',
  );
}

async function entriesFrom(file: string): Promise<readonly NewEntry[]> {
  const text = file === '-' ? await readStdin() : await readText(file);
  return parseEntries(text, file === '-' ? 'stdin' : file);
}

function readText(file: string): Promise<string> {
  return readFile(file, 'utf8').catch((cause: unknown) => {
    throw new AppError('failed-precondition', `--data: cannot read "${file}"`, { cause });
  });
}

async function readStdin(): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks).toString('utf8');
}

function show(entries: readonly RegistrationEntry[], options: ServerOptions): void {
  const [only] = entries;
  if (options.quiet) for (const entry of entries) print(entry.id);
  else if (only !== undefined && entries.length === 1) printRecord(entryRow(only), options.output);
  else printRows(entries.map(entryRow), entryColumns, options.output);
}
