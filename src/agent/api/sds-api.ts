import { AggregatedDiscoveryServiceService } from '../../gen/envoy/service/discovery/v3/ads.ts';
import { SecretDiscoveryServiceService } from '../../gen/envoy/service/secret/v3/sds.ts';
import { type CallContext, type GrpcService, rawBidi, serviceOf, unary } from '../../rpc/handlers.ts';
import type { Clock } from '../../runtime/time.ts';
import { attestCaller, type WorkloadSources } from './attested-caller.ts';
import { fetchSecrets } from './fetch-secrets.ts';
import type { ProxyDeliveries } from './proxy-deliveries.ts';
import type { SdsNames } from './sds-names.ts';
import type { SdsResources } from './sds-resources.ts';
import { defaultSdsLimits, type SdsLimits } from './sds-session.ts';
import { type ProxyConnection, SdsStream, type SdsVariant } from './sds-stream.ts';

/** What the secret services are made of. */
export interface SdsApiDeps extends WorkloadSources {
  readonly deliveries: Pick<ProxyDeliveries, 'of'>;
  /** For fetches, which leave no trace in the books. */
  readonly resources: SdsResources;
  readonly names: SdsNames;
  readonly unknownNames: 'hold' | 'fail';
  readonly limits?: Partial<SdsLimits>;
  /** What Envoy shows as its control plane. */
  readonly identifier: string;
  readonly clock: Clock;
}

const bytes = {
  requestSerialize: (value: Buffer) => value,
  requestDeserialize: (value: Buffer) => value,
  responseSerialize: (value: Buffer) => value,
  responseDeserialize: (value: Buffer) => value,
};
const sds = SecretDiscoveryServiceService;
const ads = AggregatedDiscoveryServiceService;
/** The generated services, but with bytes both ways: requests are decoded by hand, responses encoded once for all. */
const sdsDefinition = {
  streamSecrets: { ...sds.streamSecrets, ...bytes },
  deltaSecrets: { ...sds.deltaSecrets, ...bytes },
  fetchSecrets: { ...sds.fetchSecrets, ...bytes },
} as const;
const adsDefinition = {
  streamAggregatedResources: { ...ads.streamAggregatedResources, ...bytes },
  deltaAggregatedResources: { ...ads.deltaAggregatedResources, ...bytes },
} as const;

/**
 * `envoy.service.secret.v3.SecretDiscoveryService`, and secrets over
 * `envoy.service.discovery.v3.AggregatedDiscoveryService`. Envoy connects → the kernel names its process when the
 * connection is accepted (credentials and a pidfd) → at the first call what that process is gets read, once for the
 * connection → its selectors give the view of what it may have, and with the process the book of what it has been
 * given → on each stream the session says what is due, the book which version of it, the resources what that is. A
 * rotation is nothing but a new view.
 */
export function secretApis(deps: SdsApiDeps): readonly GrpcService[] {
  const { names, unknownNames, identifier, clock, resources } = deps;
  const limits = { ...defaultSdsLimits, ...deps.limits };
  const settings = { names, unknownNames, identifier, clock, limits };
  const connections = new WeakMap<object, ProxyConnection>();

  function connectionOf(key: object): ProxyConnection {
    const known = connections.get(key) ?? { node: undefined, heldNames: new Set<string>() };
    connections.set(key, known);
    return known;
  }

  async function attested(context: CallContext) {
    const caller = await attestCaller(deps, context.caller);
    return { caller, connection: connectionOf(caller.connection) };
  }

  const stream = (variant: SdsVariant) =>
    rawBidi<Buffer, Buffer>((call, context) => {
      attested(context)
        .then(({ caller, connection }) => {
          // Nobody waits any more: it is to leave no page in the book, and no view with keys in its page.
          if (context.signal.aborted) return caller.release();
          const delivery = deps.deliveries.of(caller);
          new SdsStream({ call, context }, { settings, variant, caller, connection, delivery }).start();
        })
        .catch((error: unknown) => context.end(error));
    });
  return [
    serviceOf(sdsDefinition, {
      streamSecrets: stream({ protocol: 'sotw', dialect: 'sotw', isAggregated: false }),
      deltaSecrets: stream({ protocol: 'delta', dialect: 'delta', isAggregated: false }),
      fetchSecrets: unary(async (request, context) => {
        const parts = await attested(context);
        try {
          return await fetchSecrets(request, { ...parts, resources, names, limits });
        } finally {
          parts.caller.release();
        }
      }),
    }),
    serviceOf(adsDefinition, {
      streamAggregatedResources: stream({ protocol: 'ads-sotw', dialect: 'sotw', isAggregated: true }),
      deltaAggregatedResources: stream({ protocol: 'ads-delta', dialect: 'delta', isAggregated: true }),
    }),
  ];
}
