import type { Command } from 'commander';
import type { AdminClient } from '../clients/admin/admin-client.ts';
import { isAppError } from '../runtime/error.ts';
import { systemClock } from '../runtime/time.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import {
  command,
  noun,
  refusalOf,
  type ServerOptions,
  throwRefusals,
  WrongUsage,
  withServer,
  withServerOptions,
} from './command.ts';
import { createCommand } from './entry-create.ts';
import {
  changesOf,
  type EntryOptions,
  namesFields,
  showEntry,
  warnOfOpenSelectors,
  withEntryOptions,
  withoutOptions,
} from './entry-options.ts';
import { countCommand, listCommand } from './entry-query.ts';
import { print, printRows, remark } from './output.ts';
import { changesCertificates, heldCertificates } from './running-envoy.ts';

/** `signet entry`: which workloads hold which identity. */
export function entryCommand(): Command {
  return noun('entry', 'registration entries: which workloads hold which identity', [
    createCommand(),
    updateCommand(),
    deleteCommand(),
    showCommand(),
    listCommand(),
    countCommand(),
  ]);
}

function updateCommand(): Command {
  const update = withServerOptions(
    command(
      'update',
      'change an entry; what is not named stays as it is; a certificate issued before stays valid until it expires',
      'signet entry update --id ENTRY-ID --selector unix:uid:1002 --x509-ttl 30m',
    ),
  ).requiredOption('--id <id>', 'the entry to change');
  return withoutOptions(withEntryOptions(update)).action(async (options: EntryOptions & { id: string }) => {
    const { id, ...changes } = options;
    if (!namesFields(changes)) throw new WrongUsage('say what to change, such as --selector unix:uid:1002');
    await withServer(options, async (client, signal) => {
      const current = await entryOf(id, client, signal);
      const updated = await client.entries.update({ ...current, ...changesOf(options, current) }, { signal });
      warnOfOpenSelectors(updated.selectors);
      showEntry(updated, options);
      if (isForPeople(options) && changesCertificates(current, updated)) {
        remark(
          'signet: agents take the change over at their next sync; what was issued before stays valid: ' +
            heldCertificates([current], systemClock.now()),
        );
      }
    });
  });
}

function deleteCommand(): Command {
  return withServerOptions(
    command(
      'delete <id...>',
      'delete entries; a running Envoy keeps the certificate it has until that expires',
      'signet entry delete 0b5a1c7e-…',
    ),
  ).action(async (words: string[], options: ServerOptions) =>
    withServer(options, async (client, signal) => {
      const ids = [...new Set(words)];
      const known = isForPeople(options) ? await entriesOf(ids, client, signal) : [];
      const refusals = await client.entries.delete(ids, { signal });
      const deleted = ids.filter((id) => !refusals.has(id));
      if (options.output !== 'table') {
        const rows = deleted.map((id) => ({ id }));
        printRows(rows, ['id'], options.output);
      } else for (const id of deleted) print(options.quiet ? id : `deleted ${id}`);
      if (isForPeople(options) && deleted.length > 0) {
        const gone = known.filter(({ id }) => deleted.includes(id));
        remark(`signet: ${heldCertificates(gone, systemClock.now())}`);
      }
      throwRefusals(
        [...refusals].map(([id, error]) => refusalOf(`entry "${id}"`, error, 'signet entry list')),
      );
    }),
  );
}

/** Programs read the result alone. */
function isForPeople(options: ServerOptions): boolean {
  return options.output === 'table' && options.quiet !== true;
}

async function entryOf(id: string, client: AdminClient, signal: AbortSignal): Promise<RegistrationEntry> {
  try {
    return await client.entries.get(id, { signal });
  } catch (error) {
    throw isAppError(error) ? refusalOf(`entry "${id}"`, error, 'signet entry list') : error;
  }
}

/** What is known of them: an entry that is not there is the deletion's to report. */
async function entriesOf(
  ids: readonly string[],
  client: AdminClient,
  signal: AbortSignal,
): Promise<readonly RegistrationEntry[]> {
  const found: RegistrationEntry[] = [];
  for (const id of ids) {
    const entry = await client.entries.get(id, { signal }).catch((error: unknown) => {
      if (isAppError(error, 'not-found') || isAppError(error, 'invalid-argument')) return undefined;
      throw error;
    });
    if (entry !== undefined) found.push(entry);
  }
  return found;
}

function showCommand(): Command {
  return withServerOptions(
    command('show <id>', 'show one entry', 'signet entry show 0b5a1c7e-… -o json'),
  ).action(async (id: string, options: ServerOptions) =>
    withServer(options, async (client, signal) => showEntry(await entryOf(id, client, signal), options)),
  );
}
