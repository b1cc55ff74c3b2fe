import { SpiffeWorkloadAPIService } from '../../gen/workloadapi.ts';
import { type CallContext, type GrpcService, serverStream, serviceOf, unary } from '../../rpc/handlers.ts';
import { AppError } from '../../runtime/error.ts';
import { Observable } from '../../runtime/observable.ts';
import type { Clock } from '../../runtime/time.ts';
import type { WorkloadView } from '../workload-view.ts';
import { type AttestedCaller, attestCaller, type WorkloadSources } from './attested-caller.ts';
import { type X509SvidMessage, x509BundlesResponse, x509SvidResponse } from './x509-messages.ts';

/** What the Workload API is made of. */
export interface WorkloadApiDeps extends WorkloadSources {
  readonly clock: Clock;
}

/** Clients take the first SVID as their default identity: for that one a new stream waits, but not for ever. */
const defaultIdentityWaitMs = 5_000;

/** Encoded once for all streams of a view, and of a default identity. */
type Encode<Message> = (view: WorkloadView, defaultId?: string) => Message | undefined;

const bytes = { responseSerialize: (value: Buffer) => value };
const { fetchX509Svid, fetchX509Bundles } = SpiffeWorkloadAPIService;
const definition = {
  ...SpiffeWorkloadAPIService,
  fetchX509Svid: { ...fetchX509Svid, ...bytes },
  fetchX509Bundles: { ...fetchX509Bundles, ...bytes },
} as const;

/**
 * `SpiffeWorkloadAPI` (SPIFFE Workload API and Workload Endpoint). Both X.509 methods are one stream: security header
 * → the process behind the connection → its view → the full state at once and after each change of it, until the
 * caller goes or has no identity left.
 *
 * While identities are not signed yet the stream waits, and then starts with those that are; at its start it waits
 * up to five seconds longer for the first one, which clients take as their default. The identity that a stream has
 * sent first stays its first one as long as it is in the view: while that is not signed, the stream says nothing.
 */
export function workloadApi(deps: WorkloadApiDeps): GrpcService {
  const svids = encodedOnce(x509SvidResponse);
  const bundles = encodedOnce(x509BundlesResponse);
  return serviceOf(definition, {
    fetchX509Svid: serverStream((_request, context) => fetchSvids(deps, context, svids)),
    fetchX509Bundles: serverStream((_request, context) => fetchBundles(deps, context, bundles)),
    fetchJwtsvid: unary(async (_request, context) => notServed(context)),
    validateJwtsvid: unary(async (_request, context) => notServed(context)),
    fetchJwtBundles: serverStream((_request, context) => notServed(context)),
    fetchWitsvid: serverStream((_request, context) => notServed(context)),
    fetchWitBundles: serverStream((_request, context) => notServed(context)),
  });
}

async function* fetchSvids(
  deps: WorkloadApiDeps,
  context: CallContext,
  encode: Encode<X509SvidMessage>,
): AsyncGenerator<Buffer, void, undefined> {
  requireSecurityHeader(context);
  const caller = await attestCaller(deps, context.caller);
  try {
    let last: X509SvidMessage | undefined;
    for await (const isPatient of patience(caller, deps.clock, context.signal)) {
      const news = (): X509SvidMessage | undefined => {
        const view = entitled(caller);
        if (last === undefined && isPatient && view.identities[0]?.svid === undefined) return undefined;
        const message = encode(view, last?.defaultId);
        return message !== undefined && isNews(message.bytes, last?.bytes) ? message : undefined;
      };
      if (news() === undefined) continue;
      await caller.verifyStillSame();
      // Looked at again: an identity may have been withdrawn while the program was checked.
      const message = news();
      if (message === undefined) continue;
      last = message;
      yield message.bytes;
    }
  } finally {
    caller.release();
  }
}

async function* fetchBundles(
  deps: WorkloadApiDeps,
  context: CallContext,
  encode: Encode<Buffer>,
): AsyncGenerator<Buffer, void, undefined> {
  requireSecurityHeader(context);
  const caller = await attestCaller(deps, context.caller);
  try {
    let last: Buffer | undefined;
    for await (const _ of caller.view.watch(context.signal)) {
      const message = encode(entitled(caller));
      if (message === undefined || !isNews(message, last)) continue;
      last = message;
      yield message;
    }
  } finally {
    caller.release();
  }
}

/** Exactly one value, exactly `true`, before anything else is done for the caller (Workload Endpoint §5). */
function requireSecurityHeader({ metadata }: CallContext): void {
  const values = metadata.get('workload.spiffe.io');
  if (values.length === 1 && values[0] === 'true') return;
  throw new AppError('invalid-argument', 'security header missing from request');
}

/** The caller's view; throws `unavailable` before the first sync, and `permission-denied` when it has no identity. */
function entitled(caller: AttestedCaller): WorkloadView {
  const view = caller.view.value;
  if (!view.isSynced)
    throw new AppError('unavailable', 'the agent is starting: it has not heard from its server yet');
  if (view.identities.length === 0) throw new AppError('permission-denied', 'no identity issued');
  return view;
}

/** Yields at once, after each change of the view, and once when patience for the default identity has run out. */
async function* patience(
  caller: AttestedCaller,
  clock: Clock,
  signal: AbortSignal,
): AsyncGenerator<boolean, void, undefined> {
  const isPatient = new Observable(caller.view.value.identities[0]?.svid === undefined);
  const unsubscribe = caller.view.subscribe(() => isPatient.set(isPatient.value));
  if (isPatient.value) void clock.sleep(defaultIdentityWaitMs, signal).then(() => isPatient.set(false));
  try {
    yield* isPatient.watch(signal);
  } finally {
    unsubscribe();
  }
}

function isNews(message: Buffer, last: Buffer | undefined): boolean {
  return last?.equals(message) !== true;
}

function encodedOnce<Message>(encode: Encode<Message>): Encode<Message> {
  const known = new WeakMap<WorkloadView, Map<string | undefined, Message | undefined>>();
  return (view, defaultId) => {
    const ofView = known.get(view) ?? new Map<string | undefined, Message | undefined>();
    known.set(view, ofView);
    if (!ofView.has(defaultId)) ofView.set(defaultId, encode(view, defaultId));
    return ofView.get(defaultId);
  };
}

/** The JWT profile comes later, WIT is optional; the header is demanded of every call all the same (ENDP-08). */
function notServed(context: CallContext): never {
  requireSecurityHeader(context);
  throw new AppError('unimplemented', `${context.method} is not served by this version; X.509-SVIDs are`);
}
