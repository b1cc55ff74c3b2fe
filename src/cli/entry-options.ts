import type { Command } from 'commander';
import type { NewEntry, RegistrationEntry } from '../spiffe/registration-entry.ts';
import { parseSelector, type Selector } from '../spiffe/selector.ts';
import { SpiffeId, serverIdOf, TrustDomain } from '../spiffe/spiffe-id.ts';
import { moment, parsedBy, type ServerOptions, seconds, several } from './command.ts';
import { entryColumns, entryRow } from './entry-document.ts';
import { print, printRecord, printRows, remark } from './output.ts';

/** The fields of an entry as options; false = without it, which only a change can say. */
export interface EntryOptions extends ServerOptions {
  readonly id?: string;
  readonly spiffeId?: SpiffeId;
  readonly parent?: SpiffeId;
  readonly node?: boolean;
  readonly selector?: readonly Selector[];
  readonly dns?: readonly string[] | false;
  readonly x509Ttl?: number | false;
  readonly jwtTtl?: number | false;
  readonly federatesWith?: readonly TrustDomain[] | false;
  readonly admin?: boolean;
  readonly downstream?: boolean;
  readonly hint?: string;
  readonly expires?: number | false;
}

/** Adds the options of `EntryOptions`, but for the id. */
export function withEntryOptions(target: Command): Command {
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

/** Adds the options that take something away from an entry. */
export function withoutOptions(target: Command): Command {
  return target
    .option('--no-dns', 'no DNS name')
    .option('--no-x509-ttl', "the server's lifetime of X.509-SVIDs")
    .option('--no-jwt-ttl', "the server's lifetime of JWT-SVIDs")
    .option('--no-federates-with', 'no other trust domain')
    .option('--no-admin', 'the holder may not administer the server')
    .option('--no-downstream', 'the holder is no downstream server')
    .option('--no-expires', 'the entry does not end');
}

/** What the options say about an entry; what they do not name stays out. */
export function changesOf(options: EntryOptions, current: RegistrationEntry): Partial<NewEntry> {
  const parentId = options.node ? serverIdOf(current.spiffeId.trustDomain) : options.parent;
  return {
    ...(options.spiffeId === undefined ? {} : { spiffeId: options.spiffeId }),
    ...(parentId === undefined ? {} : { parentId }),
    ...(options.selector === undefined ? {} : { selectors: options.selector }),
    ...(options.dns === undefined ? {} : { dnsNames: options.dns || [] }),
    ...(options.x509Ttl === undefined ? {} : { x509SvidTtlSeconds: options.x509Ttl || 0 }),
    ...(options.jwtTtl === undefined ? {} : { jwtSvidTtlSeconds: options.jwtTtl || 0 }),
    ...(options.federatesWith === undefined ? {} : { federatesWith: options.federatesWith || [] }),
    ...(options.admin === undefined ? {} : { admin: options.admin }),
    ...(options.downstream === undefined ? {} : { downstream: options.downstream }),
    ...(options.hint === undefined ? {} : { hint: options.hint }),
    ...(options.expires === undefined ? {} : { expiresAt: options.expires || 0 }),
  };
}

const fields = [
  'id',
  'spiffeId',
  'parent',
  'node',
  'selector',
  'dns',
  'x509Ttl',
  'jwtTtl',
  'federatesWith',
  'admin',
  'downstream',
  'hint',
  'expires',
] as const satisfies (keyof EntryOptions)[];

/** Whether any field of an entry is named. */
export function namesFields(options: EntryOptions): boolean {
  return fields.some((field) => options[field] !== undefined);
}

/** A binary that anybody may start proves nothing about who started it. */
export function warnOfOpenSelectors(selectors: readonly Selector[]): void {
  const names = (prefix: string) => selectors.some((s) => s.type === 'unix' && s.value.startsWith(prefix));
  const isOpen = names('path:') || names('sha256:');
  const isBound = names('uid:') || names('user:') || selectors.some((s) => s.type !== 'unix');
  if (!isOpen || isBound) return;
  remark(
    'signet: warning: unix:path or unix:sha256 alone matches anyone who may run that binary; add unix:uid:… ' +
      '(unix:path is the file that the agent sees there: it never matches inside a container with files of its own)',
  );
}

/** Prints one entry. */
export function showEntry(entry: RegistrationEntry, options: ServerOptions): void {
  if (options.quiet) print(entry.id);
  else printRecord(entryRow(entry), options.output);
}

/** Prints entries as a list, however many there are. */
export function listEntries(entries: readonly RegistrationEntry[], options: ServerOptions): void {
  if (options.quiet) for (const entry of entries) print(entry.id);
  else printRows(entries.map(entryRow), entryColumns, options.output);
}
