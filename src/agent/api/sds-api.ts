import { createHash } from 'node:crypto';
import { DiscoveryResponse } from '../../gen/envoy/service/discovery/v3/discovery.ts';
import { SecretDiscoveryServiceService } from '../../gen/envoy/service/secret/v3/sds.ts';
import { type CallContext, type GrpcService, rawBidi, serviceOf, unary } from '../../rpc/handlers.ts';
import { AppError } from '../../runtime/error.ts';
import { version } from '../../runtime/version.ts';
import type { WorkloadView } from '../workload-view.ts';
import { attestCaller, type WorkloadSources } from './attested-caller.ts';
import { decodeDiscoveryRequest } from './discovery-request.ts';
import { foreignText } from './foreign-text.ts';
import type { SdsNames, ValidatorFlavour } from './sds-names.ts';
import { type HeldReason, SdsResources } from './sds-resources.ts';
import { defaultSdsLimits, type SdsLimits, type SdsSend, SdsSession } from './sds-session.ts';
import { checkTypeUrl, type ProxyConnection, SdsStream, worldOf } from './sds-stream.ts';

/** What the SDS service is made of. */
export interface SdsApiDeps extends WorkloadSources {
  readonly sds: { readonly names: SdsNames; readonly validator: ValidatorFlavour };
  readonly limits?: Partial<SdsLimits>;
}

const bytes = {
  requestSerialize: (value: Buffer) => value,
  requestDeserialize: (value: Buffer) => value,
  responseSerialize: (value: Buffer) => value,
  responseDeserialize: (value: Buffer) => value,
};
const { streamSecrets, fetchSecrets } = SecretDiscoveryServiceService;
/** The generated service, but with bytes both ways: requests are decoded by hand, responses encoded once for all. */
const definition = {
  streamSecrets: { ...streamSecrets, ...bytes },
  fetchSecrets: { ...fetchSecrets, ...bytes },
} as const;

/**
 * `envoy.service.secret.v3.SecretDiscoveryService`. Envoy connects → the kernel names its process when the connection
 * is accepted (credentials and a pidfd) → at the first call what that process is gets read, once for the connection →
 * its selectors give the view of what it may have → on each stream the session says what is due, the resources say
 * what that is. A rotation is nothing but a new view.
 *
 * Throws `invalid-argument` for names that cannot be told apart.
 */
export function sdsApi(deps: SdsApiDeps): GrpcService {
  const { names, validator } = deps.sds;
  const resources = new SdsResources({ names, validator, identifier: `signet-agent/${version}` });
  const limits = { ...defaultSdsLimits, ...deps.limits };
  const connections = new WeakMap<object, ProxyConnection>();

  async function parts(context: CallContext) {
    const caller = await attestCaller(deps, context.caller);
    const connection = connections.get(caller.connection) ?? {
      node: undefined,
      heldNames: new Set<string>(),
    };
    connections.set(caller.connection, connection);
    return { caller, connection, resources, limits };
  }

  return serviceOf(definition, {
    streamSecrets: rawBidi((call, context) => {
      parts(context)
        .then((found) => new SdsStream({ call, context }, found).start())
        .catch((error: unknown) => context.end(error));
    }),
    fetchSecrets: unary(async (request, context) => {
      const found = await parts(context);
      try {
        return await fetchOnce(request, found);
      } finally {
        found.caller.release();
      }
    }),
  });
}

/**
 * FetchSecrets: what a stream would send at once for the same request, in one response. Names that are held are left
 * out, as they would be on a stream; when nothing is left the call fails and says why, since Envoy would take an
 * empty response for an answer.
 */
async function fetchOnce(
  message: Buffer,
  parts: ConstructorParameters<typeof SdsStream>[1],
): Promise<Buffer> {
  const { caller, connection, resources, limits } = parts;
  const request = decodeDiscoveryRequest(message, { readNode: connection.node === undefined, limits });
  checkTypeUrl(request.typeUrl);
  connection.node ??= request.node;
  await caller.verifyStillSame();
  // From here to the end nothing is awaited: all is read from one view.
  const view = caller.view.value;
  const session = new SdsSession(worldOf(parts), limits);
  session.receive(request);
  const sends: SdsSend[] = [];
  for (let send = session.next(); send !== undefined; send = session.next()) sends.push(send);
  const flavour = connection.node?.validator;
  const responses = sends.map(({ name }) => resources.find(name, view, flavour)?.response);
  const decoded = responses
    .filter((response) => response !== undefined)
    .map((r) => DiscoveryResponse.decode(r));
  const [first] = decoded;
  if (first === undefined) {
    const names = request.names.length === 0 ? resources.allNames(view) : request.names;
    throw nothingToFetch(
      view,
      names.map((name) => [name, resources.whyHeld(name, view, flavour)]),
    );
  }
  const versionInfo = sends.length === 1 ? first.versionInfo : combinedVersion(sends);
  const all = decoded.flatMap((response) => response.resources);
  return Buffer.from(DiscoveryResponse.encode({ ...first, versionInfo, resources: all }).finish());
}

/** Changes when any of the secrets does, or the list of them. */
function combinedVersion(sends: readonly SdsSend[]): string {
  const hash = createHash('sha256');
  for (const { name, version } of sends) hash.update(`${version} ${name}\n`);
  return hash.digest('hex').slice(0, 16);
}

function nothingToFetch(
  view: WorkloadView,
  held: readonly (readonly [name: string, reason: HeldReason | undefined])[],
): AppError {
  if (!view.isSynced) return new AppError('unavailable', 'the agent is starting');
  if (view.identities.length === 0) return new AppError('permission-denied', 'no identity issued');
  const why = held.slice(0, 5).map(([name, reason]) => `"${foreignText(name)}": ${reason}`);
  const isSoon = held.some(([, reason]) => reason === 'not signed yet' || reason === 'no bundle yet');
  return new AppError(isSoon ? 'unavailable' : 'not-found', `no secret to send: ${why.join('; ')}`);
}
