import {
  type BatchCreateFederatedBundleRequest,
  type BatchDeleteFederatedBundleRequest,
  type BatchSetFederatedBundleRequest,
  type BatchUpdateFederatedBundleRequest,
  type GetFederatedBundleRequest,
  type ListFederatedBundlesRequest,
  type ListFederatedBundlesResponse,
  BatchDeleteFederatedBundleRequest_Mode as Mode,
} from '../../gen/spire/api/server/bundle/v1/bundle.ts';
import type { BundleMask, Bundle as WireBundle } from '../../gen/spire/api/types/bundle.ts';
import type { Status } from '../../gen/spire/api/types/status.ts';
import type { BundleDeleteMode } from '../../plugin-api/data-store.ts';
import { unary } from '../../rpc/handlers.ts';
import { bundleFromWire } from '../../rpc/messages.ts';
import { itemStatus } from '../../rpc/status.ts';
import { AppError, isAppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { bundleRemarks } from '../../spiffe/bundle-remarks.ts';
import { TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { FederatedBundles } from '../bundles/federated-bundles.ts';
import type { Entries } from '../registration/entries.ts';
import { maskedBundle, mergedBundle } from './bundle-mask.ts';
import { explained, failedStatus, requireBatch } from './messages.ts';
import { pageOf, parsePage } from './page-token.ts';

const maxBatch = 1000;
const longestPage = 500;
const modes = new Map<Mode, BundleDeleteMode>([
  [Mode.RESTRICT, 'restrict'],
  [Mode.DELETE, 'delete'],
  [Mode.DISSOCIATE, 'dissociate'],
]);

/** What the handlers of federated bundles need. */
export interface FederatedBundleDeps {
  readonly trustDomain: TrustDomain;
  readonly federated: FederatedBundles;
  readonly entries: Entries;
  readonly clock: Clock;
}

/** The part of the bundle service that is about the bundles of other trust domains, with SPIRE's texts. */
export function federatedBundleHandlers(deps: FederatedBundleDeps) {
  return {
    listFederatedBundles: unary(async (request: ListFederatedBundlesRequest) => list(deps, request)),
    getFederatedBundle: unary(async ({ trustDomain, outputMask }: GetFederatedBundleRequest) =>
      maskedBundle(deps.federated.get(foreign(deps, trustDomain, 'getting a federated bundle')), outputMask),
    ),
    batchCreateFederatedBundle: unary((request: BatchCreateFederatedBundleRequest, { log }) =>
      storeEach({ deps, request, log, doing: 'creating' }, (bundle) => deps.federated.create(bundle)),
    ),
    batchUpdateFederatedBundle: unary((request: BatchUpdateFederatedBundleRequest, { log }) =>
      storeEach({ deps, request, log, doing: 'updating' }, (bundle) =>
        deps.federated.update(bundle.trustDomain, (current) =>
          mergedBundle(current, bundle, request.inputMask),
        ),
      ),
    ),
    batchSetFederatedBundle: unary((request: BatchSetFederatedBundleRequest, { log }) =>
      storeEach({ deps, request, log, doing: 'setting' }, (bundle) => deps.federated.set(bundle)),
    ),
    batchDeleteFederatedBundle: unary((request: BatchDeleteFederatedBundleRequest, { log }) =>
      deleteEach(deps, request, log),
    ),
  };
}

function list(deps: FederatedBundleDeps, request: ListFederatedBundlesRequest): ListFederatedBundlesResponse {
  const wanted = parsePage(request, longestPage);
  const found = deps.federated.list({
    afterName: wanted.afterId,
    limit: wanted.limit ?? Number.MAX_SAFE_INTEGER,
  });
  const { page, nextPageToken } = pageOf(found, wanted, ({ trustDomain }) => trustDomain.name);
  return { bundles: page.map((bundle) => maskedBundle(bundle, request.outputMask)), nextPageToken };
}

interface StoreBatch {
  readonly deps: FederatedBundleDeps;
  readonly request: { readonly bundle: readonly WireBundle[]; readonly outputMask: BundleMask | undefined };
  readonly log: Logger;
  readonly doing: 'creating' | 'updating' | 'setting';
}

async function storeEach(
  { deps, request, log, doing }: StoreBatch,
  store: (bundle: Bundle) => Promise<Bundle>,
): Promise<{ results: { status: Status; bundle: WireBundle | undefined }[] }> {
  requireBatch(request.bundle, maxBatch);
  const storeOne = async (wire: WireBundle): Promise<WireBundle> => {
    const trustDomain = foreign(deps, wire.trustDomain, `${doing} a federated bundle`);
    const parse = () => bundleFromWire({ ...wire, trustDomain: trustDomain.name });
    const stored = await store(explained('failed to convert bundle', parse));
    for (const remark of bundleRemarks(stored, deps.clock.now())) {
      log.warn({ trustDomain, remark }, 'a federated bundle may not work as its owner expects');
    }
    return maskedBundle(stored, request.outputMask);
  };
  const results: { status: Status; bundle: WireBundle | undefined }[] = [];
  for (const wire of request.bundle) {
    results.push(
      await storeOne(wire).then(
        (bundle) => ({ status: itemStatus(), bundle }),
        (error: unknown) => ({ status: failedStatus(error, log), bundle: undefined }),
      ),
    );
  }
  return { results };
}

async function deleteEach(
  deps: FederatedBundleDeps,
  request: BatchDeleteFederatedBundleRequest,
  log: Logger,
): Promise<{ results: { status: Status; trustDomain: string }[] }> {
  requireBatch(request.trustDomains, maxBatch);
  const mode = modes.get(request.mode);
  if (mode === undefined) {
    throw new AppError(
      'invalid-argument',
      `failed to parse deletion mode: unhandled delete mode ${request.mode}`,
    );
  }
  const deleteOne = async (name: string): Promise<void> => {
    const trustDomain = foreign(deps, name, 'removing the bundle', 'for the server trust domain');
    await deps.entries.changeWith(() => deps.federated.delete(trustDomain, mode));
  };
  const results: { status: Status; trustDomain: string }[] = [];
  for (const trustDomain of request.trustDomains) {
    const status = await deleteOne(trustDomain).then(
      () => itemStatus(),
      (error: unknown) => failedStatus(undeleted(error), log),
    );
    results.push({ status, trustDomain });
  }
  return { results };
}

/** SPIRE's words around ours. */
function undeleted(error: unknown): unknown {
  if (!isAppError(error, 'failed-precondition')) return error;
  return new AppError(error.code, `failed to delete federated bundle: ${error.message}`);
}

/** The trust domain that a request names, which must not be our own. */
function foreign(
  { trustDomain: own }: FederatedBundleDeps,
  name: string,
  doing: string,
  what = "for the server's own trust domain",
): TrustDomain {
  const parse = () => TrustDomain.parseNameOrId(name);
  const trustDomain = explained('trust domain argument is not valid', parse);
  if (!trustDomain.equals(own)) return trustDomain;
  throw new AppError('invalid-argument', `${doing} ${what} is not allowed`);
}
