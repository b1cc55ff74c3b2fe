import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { systemClock } from '../runtime/time.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { type KeyType, keyTypes } from '../x509/signature.ts';
import {
  command,
  noun,
  parsedBy,
  type ServerOptions,
  seconds,
  several,
  WrongUsage,
  withServer,
  withServerOptions,
} from './command.ts';
import { FileDirectory } from './file-set/file-directory.ts';
import type { FileSet } from './file-set/file-plan.ts';
import { nodeFileSystem } from './file-set/file-system.ts';
import { type Minted, type MintRequest, mintX509, newMintRequest, readMintRequest } from './mint.ts';
import { print, printRecord, type Row, remark } from './output.ts';

interface MintOptions extends ServerOptions {
  readonly spiffeId?: SpiffeId;
  readonly dns?: readonly string[];
  readonly ttl?: number;
  readonly keyType?: KeyType;
  readonly csr?: string;
  readonly writeTo?: string;
}

/** `signet x509`: certificates straight from the server, for administrators. */
export function x509Command(): Command {
  const mint = withServerOptions(
    command(
      'mint',
      'have an X.509-SVID signed without attestation, as for a machine without an agent',
      [
        'signet x509 mint --spiffe-id spiffe://example.org/db --dns db.example.org --write-to /etc/db/svid',
        'signet x509 mint --csr db.csr --ttl 12h > svid.pem',
      ].join('\n'),
    ),
  )
    .option('--spiffe-id <id>', 'the identity', parsedBy(SpiffeId.parse))
    .option('--dns <name>', 'DNS name besides; may be given several times', several(String))
    .option('--ttl <duration>', "lifetime; default: the server's, and never longer than its CA's", seconds)
    .addOption(new Option('--key-type <type>', 'key to make here; default: ec-p256').choices([...keyTypes]))
    .option('--csr <file>', 'PKCS#10 request, PEM or DER, instead; - for stdin; no key is made')
    .option('--write-to <dir>', 'write svid.pem, key.pem (mode 0600) and bundle.pem here, all at once')
    .action(mintAction);
  return noun('x509', 'X.509-SVIDs straight from the server, for administrators', [mint]);
}

async function mintAction(options: MintOptions): Promise<void> {
  checkUsage(options);
  const request = await requestFor(options);
  const { writeTo } = options;
  if (writeTo === undefined) return show(await mint(request, options), options);
  // Opened first: a certificate that cannot be stored is not to be signed.
  const clock = systemClock;
  const directory = await FileDirectory.open(writeTo, { clock, files: nodeFileSystem, owner: undefined });
  try {
    const minted = await mint(request, options);
    await directory.replace(filesOf(minted));
    await directory.prune();
    show(minted, { ...options, writeTo: directory.path });
  } finally {
    await directory.close();
  }
}

/** Throws WrongUsage for what the parser cannot see. */
function checkUsage({ csr, spiffeId, dns, keyType, writeTo, output, quiet }: MintOptions): void {
  if (csr !== undefined) {
    if (spiffeId === undefined && dns === undefined && keyType === undefined) return;
    throw new WrongUsage(
      'a CSR says identity, names and key itself: leave out --spiffe-id, --dns and --key-type',
    );
  }
  if (spiffeId === undefined) throw new WrongUsage('say for whom: --spiffe-id ID, or --csr FILE');
  if (writeTo !== undefined) return;
  if (output === 'table' || quiet === true) {
    throw new WrongUsage('the private key needs a place: --write-to DIR, or -o json with output to a pipe');
  }
  if (process.stdout.isTTY === true) {
    throw new WrongUsage('a private key is not printed to a terminal: use --write-to DIR, or a pipe');
  }
}

function requestFor({ csr, spiffeId, dns, keyType }: MintOptions): Promise<MintRequest> {
  if (csr !== undefined) return readMintRequest(csr);
  return newMintRequest({ uris: [String(spiffeId)], dnsNames: dns ?? [], keyType: keyType ?? 'ec-p256' });
}

async function mint(request: MintRequest, options: MintOptions): Promise<Minted> {
  const ttlSeconds = options.ttl ?? 0;
  const minted = await withServer(options, (client, signal) =>
    mintX509(client, request, { ttlSeconds, signal }),
  );
  const { leaf } = minted.svid;
  if (leaf.notAfterMs - leaf.notBeforeMs < ttlSeconds * 1000) {
    const end = new Date(leaf.notAfterMs).toISOString();
    remark(`signet: the certificate ends ${end}, sooner than asked for: the server's CA ends then`);
  }
  return minted;
}

function filesOf({ svidPem, keyPem, bundlePem }: Minted): FileSet {
  return [
    { name: 'svid.pem', content: svidPem, mode: 0o644 },
    ...(keyPem === undefined ? [] : [{ name: 'key.pem', content: keyPem, mode: 0o600 }]),
    { name: 'bundle.pem', content: bundlePem, mode: 0o644 },
  ];
}

function show(minted: Minted, { output, quiet, writeTo }: MintOptions): void {
  const { svid, svidPem } = minted;
  if (quiet === true) print(svid.id.toString());
  else if (writeTo === undefined && output === 'table') print(svidPem);
  else {
    const [serial, notAfter] = [svid.leaf.serialHex, new Date(svid.notAfterMs).toISOString()];
    const parts = writeTo === undefined ? pemRow(minted) : fileRow(minted, writeTo);
    printRecord({ spiffeId: svid.id.toString(), serial, notAfter, ...parts }, output);
  }
}

function pemRow({ svidPem, keyPem, bundlePem }: Minted): Row {
  return { svid: svidPem, ...(keyPem === undefined ? {} : { key: keyPem }), bundle: bundlePem };
}

function fileRow({ keyPem }: Minted, directory: string): Row {
  const key = keyPem === undefined ? {} : { keyFile: join(directory, 'key.pem') };
  return { svidFile: join(directory, 'svid.pem'), ...key, bundleFile: join(directory, 'bundle.pem') };
}
