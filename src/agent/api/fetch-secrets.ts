import { createHash } from 'node:crypto';
import { DiscoveryResponse } from '../../gen/envoy/service/discovery/v3/discovery.ts';
import { AppError } from '../../runtime/error.ts';
import type { WorkloadView } from '../workload-view.ts';
import type { AttestedCaller } from './attested-caller.ts';
import { decodeDiscoveryRequest } from './discovery-request.ts';
import { foreignText } from './foreign-text.ts';
import type { ProxyNode } from './proxy-node.ts';
import type { HeldReason } from './resource.ts';
import { parseSecretName, type SdsNames, wantedKeyTypes } from './sds-names.ts';
import type { SdsResources } from './sds-resources.ts';
import { type SdsLimits, type SdsSend, SdsSession } from './sds-session.ts';
import { checkTypeUrl } from './sds-stream.ts';
import type { EncodedSecret } from './secrets.ts';
import { SotwRequests } from './sotw-requests.ts';

/** Reasons that pass without anybody's doing. */
const passing: ReadonlySet<string> = new Set<HeldReason>([
  'not signed yet',
  'signing failed',
  'no bundle yet',
]);

interface FetchParts {
  readonly caller: AttestedCaller;
  readonly connection: { node: ProxyNode | undefined };
  readonly resources: SdsResources;
  readonly names: SdsNames;
  readonly limits: SdsLimits;
}

/**
 * FetchSecrets: what a stream would send at once for the same request, in one response. Names that are held are left
 * out, as they would be on a stream; when nothing is left the call fails and says why, since Envoy would take an
 * empty response for an answer. Nobody answers a fetch, so that it leaves no trace in the books.
 */
export async function fetchSecrets(message: Buffer, parts: FetchParts): Promise<Buffer> {
  const { caller, connection, limits, names, resources } = parts;
  const request = decodeDiscoveryRequest(message, { readNode: connection.node === undefined, limits });
  checkTypeUrl(request.typeUrl);
  connection.node ??= request.node;
  caller.wantKeyTypes(wantedKeyTypes(request.names, names));
  await caller.verifyStillSame();
  // From here to the end nothing is awaited: all is read from one view.
  const view = caller.view.value;
  const find = (name: string) => secretOf(name, parts);
  const session = new SdsSession(
    {
      lookup: find,
      isAbsent: () => false,
      canBeServed: (name) => parseSecretName(name, names) !== undefined,
      allNames: () => resources.allNames(view),
    },
    { limits },
  );
  new SotwRequests(session).receive(request);
  const sends: SdsSend[] = [];
  for (let send = session.next(); send !== undefined; send = session.next()) sends.push(send);
  const found = sends.map(({ name }) => find(name)).filter((secret) => secret !== undefined);
  const responses = found.map((secret) => DiscoveryResponse.decode(secret.response('sotw')));
  const [first] = responses;
  if (first === undefined) {
    const asked = request.names.length === 0 ? resources.allNames(view) : request.names;
    throw nothingToFetch(
      view,
      asked.map((name) => [name, resources.whyHeld(name, view, connection.node?.validator)]),
    );
  }
  const versionInfo = sends.length === 1 ? first.versionInfo : combinedVersion(sends);
  const all = responses.flatMap((response) => response.resources);
  return Buffer.from(DiscoveryResponse.encode({ ...first, versionInfo, resources: all }).finish());
}

function secretOf(name: string, { caller, connection, resources }: FetchParts): EncodedSecret | undefined {
  const resource = resources.resolve(name, caller.view.value, connection.node?.validator);
  if (resource.kind === 'held' || resource.kind === 'unfit') return undefined;
  return resources.encode(name, resource, 0);
}

/** Changes when any of the secrets does, or the list of them. */
function combinedVersion(sends: readonly SdsSend[]): string {
  const hash = createHash('sha256');
  for (const { name, version } of sends) hash.update(`${version} ${name}\n`);
  return hash.digest('hex').slice(0, 16);
}

function nothingToFetch(
  view: WorkloadView,
  held: readonly (readonly [name: string, reason: string | undefined])[],
): AppError {
  if (!view.isSynced) return new AppError('unavailable', 'the agent is starting');
  if (view.identities.length === 0) return new AppError('permission-denied', 'no identity issued');
  const why = held.slice(0, 5).map(([name, reason]) => `"${foreignText(name)}": ${reason}`);
  const isSoon = held.some(([, reason]) => reason !== undefined && passing.has(reason));
  return new AppError(isSoon ? 'unavailable' : 'not-found', `no secret to send: ${why.join('; ')}`);
}
