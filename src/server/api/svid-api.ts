import {
  type BatchNewX509SVIDRequest,
  type BatchNewX509SVIDResponse,
  type BatchNewX509SVIDResponse_Result,
  type MintX509SVIDRequest,
  type MintX509SVIDResponse,
  type NewX509SVIDParams,
  SVIDService,
} from '../../gen/spire/api/server/svid/v1/svid.ts';
import type { AgentRecord } from '../../plugin-api/data-store.ts';
import { type CallContext, serviceOf, unary } from '../../rpc/handlers.ts';
import { itemStatus } from '../../rpc/status.ts';
import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { isReservedPath, SpiffeId, type TrustDomain } from '../../spiffe/spiffe-id.ts';
import { parseCsr, verifyCsr } from '../../x509/csr.ts';
import type { Authority } from '../authority/authority.ts';
import type { EntryIndex } from '../registration/entry-index.ts';
import { checkDnsName } from '../registration/entry-rules.ts';
import type { Access } from './access.ts';
import { failedStatus, svidToWire } from './messages.ts';

/** SPIRE's agents send at most 500. */
const maxBatch = 500;
/** Signing is synchronous for P-256: let other calls run between this many certificates. */
const yieldEvery = 16;

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly authority: Authority;
  readonly index: EntryIndex;
  readonly access: Access;
  readonly clock: Clock;
  readonly defaultTtlMs: number;
}

/** `spire.api.server.svid.v1.SVID`: certificates for agents' workloads and for administrators. */
export function svidApi(deps: Deps) {
  return serviceOf(SVIDService, {
    batchNewX509Svid: unary((request: BatchNewX509SVIDRequest, context) => batchNew(deps, request, context)),
    mintX509Svid: unary((request: MintX509SVIDRequest) => mint(deps, request)),
  });
}

async function batchNew(
  deps: Deps,
  request: BatchNewX509SVIDRequest,
  context: CallContext,
): Promise<BatchNewX509SVIDResponse> {
  if (request.params.length === 0) throw new AppError('invalid-argument', 'missing parameters');
  if (request.params.length > maxBatch) {
    throw new AppError(
      'resource-exhausted',
      `batch of ${request.params.length} CSRs; at most ${maxBatch} are allowed`,
    );
  }
  const agent = await deps.access.requireAgent(context.caller);
  const results: BatchNewX509SVIDResponse_Result[] = [];
  for (const [index, params] of request.params.entries()) {
    if (context.signal.aborted) break;
    if (index % yieldEvery === yieldEvery - 1) await new Promise(setImmediate);
    results.push(await newForEntry(deps, agent, params, context.log));
  }
  return { results };
}

async function newForEntry(
  deps: Deps,
  agent: AgentRecord,
  params: NewX509SVIDParams,
  log: Logger,
): Promise<BatchNewX509SVIDResponse_Result> {
  try {
    if (params.entryId === '') throw new AppError('invalid-argument', 'missing entry ID');
    if (params.csr.length === 0) throw new AppError('invalid-argument', 'missing CSR');
    const entry = deps.index.isAuthorized(agent, params.entryId, deps.clock.now() / 1000)
      ? deps.index.find(params.entryId)
      : undefined;
    if (entry === undefined) throw new AppError('not-found', 'entry not found or not authorized');
    const csr = parseCsr(params.csr);
    verifyCsr(csr);
    const svid = await deps.authority.signX509Svid({
      // Everything but the key comes from the entry: what the CSR says of itself proves nothing.
      id: entry.spiffeId,
      dnsNames: entry.dnsNames,
      spki: csr.spki,
      ttlMs: ttlOf(entry, deps),
    });
    return { status: itemStatus(undefined), svid: svidToWire(svid) };
  } catch (error) {
    return { status: failedStatus(error, log), svid: undefined };
  }
}

async function mint(deps: Deps, request: MintX509SVIDRequest): Promise<MintX509SVIDResponse> {
  if (request.csr.length === 0) throw new AppError('invalid-argument', 'missing CSR');
  if (request.ttl < 0) throw new AppError('invalid-argument', 'ttl must not be negative');
  const csr = parseCsr(request.csr);
  verifyCsr(csr);
  const [uri, second] = csr.uris;
  if (uri === undefined) throw new AppError('invalid-argument', 'CSR URI SAN is required');
  if (second !== undefined) throw new AppError('invalid-argument', 'only one URI SAN is expected');
  const id = SpiffeId.parse(uri);
  if (!id.isMemberOf(deps.trustDomain) || id.path === '' || isReservedPath(id.path)) {
    throw new AppError(
      'invalid-argument',
      `CSR URI SAN "${id}" must be a workload ID of trust domain "${deps.trustDomain}"`,
    );
  }
  const badName = csr.dnsNames.map(checkDnsName).find((problem) => problem !== undefined);
  if (badName !== undefined) throw new AppError('invalid-argument', `CSR DNS name is invalid: ${badName}`);
  const svid = await deps.authority.signX509Svid({
    id,
    dnsNames: csr.dnsNames,
    spki: csr.spki,
    ttlMs: request.ttl === 0 ? deps.defaultTtlMs : request.ttl * 1000,
  });
  return { svid: svidToWire(svid) };
}

/** The entry's lifetime for certificates, or the server's; never beyond the end of the entry itself. */
function ttlOf(entry: RegistrationEntry, { defaultTtlMs, clock }: Deps): number {
  const ttlMs = entry.x509SvidTtlSeconds === 0 ? defaultTtlMs : entry.x509SvidTtlSeconds * 1000;
  return entry.expiresAt === 0 ? ttlMs : Math.min(ttlMs, entry.expiresAt * 1000 - clock.now());
}
