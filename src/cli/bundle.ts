import { type Command, Option } from 'commander';
import type { AdminClient } from '../clients/admin/admin-client.ts';
import { deleteModes } from '../clients/admin/bundle-client.ts';
import { AppError, errorText, isAppError } from '../runtime/error.ts';
import { systemClock } from '../runtime/time.ts';
import { Bundle } from '../spiffe/bundle.ts';
import { bundleToSpiffeJwks, parseSpiffeJwks } from '../spiffe/bundle-document.ts';
import { bundleRemarks } from '../spiffe/bundle-remarks.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { parsePemCertificates } from '../x509/certificate.ts';
import {
  command,
  noun,
  parsedBy,
  refusalOf,
  type ServerOptions,
  throwRefusals,
  WrongUsage,
  withServer,
  withServerOptions,
} from './command.ts';
import { readInput } from './input.ts';
import { print, printRecord, printRows, type Row, remark } from './output.ts';

type Format = 'pem' | 'spiffe';

/** `signet bundle`: trust bundles, ours and those of other trust domains. */
export function bundleCommand(): Command {
  return noun('bundle', 'trust bundles: ours and federated ones', [
    showCommand(),
    listCommand(),
    setCommand(),
    countCommand(),
    deleteCommand(),
  ]);
}

function showCommand(): Command {
  const show = withServerOptions(
    command(
      'show [trust-domain]',
      "print our trust domain's bundle, or the stored one of another trust domain",
      'signet bundle show > bundle.pem\nsignet bundle show --format spiffe > ours.json\nsignet bundle show other.org -o json',
    ),
  ).addOption(formatOption('pem, or spiffe for a SPIFFE bundle document').default('pem'));
  return show.action(async (name: string | undefined, options: ServerOptions & { format: Format }) => {
    const wanted = name === undefined ? undefined : trustDomainOf(name);
    const bundle = await withServer(options, (client, signal) => find(client, wanted, signal));
    if (options.quiet) return print(bundle.trustDomain.name);
    if (options.output !== 'table') {
      return printRecord(
        {
          ...rowOf(bundle),
          fingerprints: bundle.certificates().map((root) => `sha256:${root.fingerprint}`),
          jwtKeyIds: bundle.jwtAuthorities.map(({ keyId }) => keyId),
          pem: bundle.toPem(),
        },
        options.output,
      );
    }
    print(options.format === 'spiffe' ? bundleToSpiffeJwks(bundle) : bundle.toPem());
  });
}

function listCommand(): Command {
  return withServerOptions(
    command('list', 'list our bundle and the stored ones of other trust domains', 'signet bundle list'),
  ).action(async (options: ServerOptions) =>
    withServer(options, async (client, signal) => {
      const own = await client.bundles.getOwn({ signal });
      const bundles = [own, ...(await client.bundles.listFederated({ signal }))];
      if (options.quiet) for (const bundle of bundles) print(bundle.trustDomain.name);
      else printRows(bundles.map(rowOf), columns, options.output);
    }),
  );
}

function setCommand(): Command {
  const set = withServerOptions(
    command(
      'set',
      'store the bundle of another trust domain, so that entries can federate with it',
      'signet bundle set --trust-domain other.org --file other.json\n' +
        'ssh other-server signet bundle show --format spiffe | signet bundle set --trust-domain other.org --file -',
    ),
  );
  return set
    .requiredOption(
      '--trust-domain <name>',
      'whose bundle it is; no bundle says that itself',
      parsedBy(TrustDomain.parseNameOrId),
    )
    .requiredOption('--file <file>', 'a SPIFFE bundle document, or certificates as PEM; - reads stdin')
    .addOption(formatOption('how the file is written; default: what it looks like'))
    .action(async (options: ServerOptions & { trustDomain: TrustDomain; file: string; format?: Format }) => {
      const bundle = await readBundle(options);
      for (const text of bundleRemarks(bundle, systemClock.now())) {
        remark(`signet: warning: bundle of "${bundle.trustDomain}": ${text}`);
      }
      await withServer(options, async (client, signal) => {
        const stored = await client.bundles.set(bundle, { signal });
        if (options.quiet) print(stored.trustDomain.name);
        else printRecord(rowOf(stored), options.output);
      });
    });
}

function countCommand(): Command {
  return withServerOptions(
    command('count', 'count the stored bundles, ours included', 'signet bundle count'),
  ).action(async (options: ServerOptions) => {
    const count = await withServer(options, (client, signal) => client.bundles.count({ signal }));
    if (options.output === 'table') print(String(count));
    else printRecord({ count }, options.output);
  });
}

function deleteCommand(): Command {
  return withServerOptions(
    command(
      'delete <trust-domain...>',
      'delete bundles of other trust domains: their workloads are not trusted any more',
      'signet bundle delete other.org --mode dissociate',
    ),
  )
    .addOption(
      new Option(
        '--mode <mode>',
        'for entries that federate with it: restrict = refuse while there are any, dissociate = take it out of them, delete = delete them',
      )
        .choices(Object.keys(deleteModes))
        .default('restrict'),
    )
    .action(async (names: string[], options: ServerOptions & { mode: keyof typeof deleteModes }) => {
      const trustDomains = [...new Map(names.map(trustDomainOf).map((one) => [one.name, one])).values()];
      const refusals = await withServer(options, (client, signal) =>
        client.bundles.delete(trustDomains, { mode: options.mode, signal }),
      );
      const deleted = trustDomains.map(({ name }) => name).filter((name) => !refusals.has(name));
      if (options.output !== 'table') {
        const rows = deleted.map((trustDomain) => ({ trustDomain }));
        printRows(rows, ['trustDomain'], options.output);
      } else for (const name of deleted) print(options.quiet ? name : `deleted ${name}`);
      throwRefusals(
        [...refusals].map(([name, error]) => refusalOf(`bundle of "${name}"`, error, 'signet bundle list')),
      );
    });
}

function formatOption(description: string): Option {
  return new Option('--format <format>', description).choices(['pem', 'spiffe'] satisfies Format[]);
}

function trustDomainOf(name: string): TrustDomain {
  try {
    return TrustDomain.parseNameOrId(name);
  } catch (error) {
    throw new WrongUsage(errorText(error));
  }
}

async function find(
  client: AdminClient,
  wanted: TrustDomain | undefined,
  signal: AbortSignal,
): Promise<Bundle> {
  const own = await client.bundles.getOwn({ signal });
  if (wanted === undefined || wanted.equals(own.trustDomain)) return own;
  try {
    return await client.bundles.getFederated(wanted, { signal });
  } catch (error) {
    if (!isAppError(error, 'not-found')) throw error;
    const text = `no bundle of "${wanted}" is stored; see \`signet bundle list\``;
    throw new AppError('not-found', text);
  }
}

async function readBundle(options: {
  readonly trustDomain: TrustDomain;
  readonly file: string;
  readonly format?: Format;
}): Promise<Bundle> {
  const { trustDomain, file } = options;
  const { bytes, name } = await readInput(file, 'the bundle');
  const content = bytes.toString('utf8');
  const format = options.format ?? (content.trimStart().startsWith('{') ? 'spiffe' : 'pem');
  try {
    return format === 'spiffe' ? parseSpiffeJwks(content, trustDomain) : pemBundle(content, trustDomain);
  } catch (error) {
    throw isAppError(error) ? new AppError(error.code, `${name} as ${format}: ${error.message}`) : error;
  }
}

function pemBundle(content: string, trustDomain: TrustDomain): Bundle {
  const x509Authorities = parsePemCertificates(content).map((certificate) => ({
    certificate,
    tainted: false,
  }));
  return new Bundle({ trustDomain, x509Authorities, sequence: 0, refreshHintSeconds: 0 });
}

const columns = ['trustDomain', 'x509Authorities', 'jwtAuthorities', 'sequence', 'expires'];

function rowOf(bundle: Bundle): Row {
  const last = Math.max(...bundle.certificates().map(({ notAfterMs }) => notAfterMs));
  return {
    trustDomain: bundle.trustDomain.name,
    x509Authorities: bundle.x509Authorities.length,
    jwtAuthorities: bundle.jwtAuthorities.length,
    sequence: exactly(bundle.sequence),
    refreshHint: bundle.refreshHintSeconds === 0 ? '' : `${bundle.refreshHintSeconds}s`,
    expires: Number.isFinite(last) ? new Date(last).toISOString() : '',
  };
}

/** A number that JSON readers cannot hold is better a text than another number. */
function exactly(value: bigint): number | string {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : String(value);
}
