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
import { AppError, isAppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';
import { Turns } from '../../runtime/turns.ts';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { type CertificateRequest, verifyCsr } from '../../x509/csr.ts';
import type { Authority, SignedSvid } from '../authority/authority.ts';
import type { SvidHolder } from '../authority/issued-svids.ts';
import type { LeafRequest } from '../authority/template.ts';
import type { EntryIndex } from '../registration/entry-index.ts';
import type { Access } from './access.ts';
import { failedStatus, requireBatch, svidToWire } from './messages.ts';
import { missingCsr, readCsr, readMintRequest } from './mint-request.ts';

/** SPIRE's agents send at most 500. */
const maxBatch = 500;
/** Checking and signing take 0.2 to 0.6 ms of the event loop each; for all calls together no more in one round. */
const certificatesPerRound = 8;

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly authority: Pick<Authority, 'signX509Svid'>;
  readonly index: EntryIndex;
  readonly access: Pick<Access, 'requireAgent'>;
  readonly clock: Clock;
  readonly defaultTtlMs: number;
}

interface Work extends Deps {
  readonly turns: Turns;
}

/** `spire.api.server.svid.v1.SVID`: certificates for agents' workloads and for administrators. */
export function svidApi(deps: Deps) {
  const work: Work = { ...deps, turns: new Turns(certificatesPerRound) };
  return serviceOf(SVIDService, {
    batchNewX509Svid: unary((request: BatchNewX509SVIDRequest, context) => batchNew(work, request, context)),
    mintX509Svid: unary((request: MintX509SVIDRequest, context) => mint(work, request, context)),
  });
}

async function batchNew(
  work: Work,
  request: BatchNewX509SVIDRequest,
  context: CallContext,
): Promise<BatchNewX509SVIDResponse> {
  if (request.params.length === 0) throw new AppError('invalid-argument', 'missing parameters');
  requireBatch(request.params, maxBatch, 'CSRs');
  const agent = await work.access.requireAgent(context.caller);
  const results: BatchNewX509SVIDResponse_Result[] = [];
  for (const params of request.params) {
    await work.turns.next();
    // Whoever has been banned meanwhile, or has gone, gets nothing signed any more.
    context.signal.throwIfAborted();
    results.push(await newForEntry(work, agent, params, context.log));
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
    if (params.csr.length === 0) throw missingCsr();
    const entry = deps.index.isAuthorized(agent, params.entryId, deps.clock.now() / 1000)
      ? deps.index.find(params.entryId)
      : undefined;
    if (entry === undefined) throw new AppError('not-found', 'entry not found or not authorized');
    const csr = readCsr(params.csr);
    verifyCsr(csr);
    const request = {
      // Everything but the key comes from the entry: what the CSR says of itself proves nothing.
      id: entry.spiffeId,
      dnsNames: entry.dnsNames,
      spki: csr.spki,
      ttlMs: ttlOf(entry, deps),
    };
    const svid = await sign(deps, request, holderOf(agent, entry, csr));
    // OK all the same, and says what is missing.
    const status = { ...itemStatus(undefined), message: svid.shortened ?? '' };
    return { status, svid: svidToWire(svid) };
  } catch (error) {
    return { status: failedStatus(error, log), svid: undefined };
  }
}

async function mint(
  work: Work,
  request: MintX509SVIDRequest,
  context: CallContext,
): Promise<MintX509SVIDResponse> {
  if (request.ttl < 0) throw new AppError('invalid-argument', 'ttl must not be negative');
  await work.turns.next();
  context.signal.throwIfAborted();
  const svid = await sign(work, {
    ...readMintRequest(request.csr, work.trustDomain),
    ttlMs: request.ttl === 0 ? work.defaultTtlMs : request.ttl * 1000,
  });
  return { svid: svidToWire(svid) };
}

async function sign({ authority }: Deps, request: LeafRequest, holder?: SvidHolder): Promise<SignedSvid> {
  try {
    return await authority.signX509Svid(request, holder);
  } catch (cause) {
    if (!isAppError(cause)) throw cause;
    throw new AppError(cause.code, `failed to sign X509-SVID: ${cause.message}`, { cause });
  }
}

/** An agent holds one SVID of each entry for each kind of key. */
function holderOf(
  { id }: AgentRecord,
  entry: RegistrationEntry,
  { keyType }: Pick<CertificateRequest, 'keyType'>,
): SvidHolder {
  // Most have this one kind: their uses share the text of the entry's id.
  const use = keyType === 'ec-p256' ? entry.id : `${entry.id} ${keyType}`;
  return { agent: id.toString(), use };
}

/** The entry's lifetime for certificates, or the server's; never beyond the end of the entry itself. */
function ttlOf(entry: RegistrationEntry, { defaultTtlMs, clock }: Deps): number {
  const ttlMs = entry.x509SvidTtlSeconds === 0 ? defaultTtlMs : entry.x509SvidTtlSeconds * 1000;
  return entry.expiresAt === 0 ? ttlMs : Math.min(ttlMs, entry.expiresAt * 1000 - clock.now());
}
