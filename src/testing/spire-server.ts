import { randomUUID } from 'node:crypto';
import { onTestFinished } from 'vitest';
import {
  AgentService,
  type AttestAgentRequest,
  type AttestAgentResponse,
} from '../gen/spire/api/server/agent/v1/agent.ts';
import { BundleService } from '../gen/spire/api/server/bundle/v1/bundle.ts';
import {
  EntryService,
  type SyncAuthorizedEntriesRequest,
  type SyncAuthorizedEntriesResponse,
} from '../gen/spire/api/server/entry/v1/entry.ts';
import { SVIDService } from '../gen/spire/api/server/svid/v1/svid.ts';
import type { Bundle } from '../gen/spire/api/types/bundle.ts';
import { Entry, type EntryMask } from '../gen/spire/api/types/entry.ts';
import type { X509SVID } from '../gen/spire/api/types/x509svid.ts';
import type { Caller } from '../rpc/caller.ts';
import { GrpcListener } from '../rpc/grpc-server.ts';
import { bidi, serviceOf, unary } from '../rpc/handlers.ts';
import { itemStatus } from '../rpc/status.ts';
import type { TlsIdentity } from '../rpc/tls-listener.ts';
import { silentLogger } from '../runtime/log.ts';
import { Observable } from '../runtime/observable.ts';
import type { Clock } from '../runtime/time.ts';
import { X509Svid } from '../spiffe/x509-svid.ts';
import { parseCsr, verifyCsr } from '../x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey } from '../x509/signature.ts';
import { refused, SpireAgentRecords } from './spire-agent-records.ts';
import { SpireAuthority } from './spire-authority.ts';

const trustDomain = 'example.org';
const pageSize = 500;
/** SPIRE signs that many per second; a batch that is larger could never pass. */
const signBurst = 500;
const secondMs = 1000;

interface Options {
  readonly clock: Clock;
  /** Connections get a GOAWAY after this; SPIRE's are three minutes. */
  readonly maxConnectionAgeMs?: number;
  readonly reattestable?: boolean;
  /** Sent one after the other before the result. */
  readonly challenges?: readonly Uint8Array[];
  readonly agentTtlMs?: number;
  readonly svidTtlMs?: number;
  /** As servers before 1.12: revisions say nothing of `created_at`. */
  readonly isOld?: boolean;
  readonly hasUpstream?: boolean;
}

/**
 * The agent API of a SPIRE server with its validations, texts, reasons, pages and connection age, for our agent to be
 * driven against. What SPIRE's own agents never do, though the server would bear it, is in `violations`.
 */
export class SpireServer {
  readonly authority: SpireAuthority;
  /** All are authorized for every agent. */
  readonly entries = new Map<string, Entry>();
  /** By name, besides the own one. */
  readonly federated = new Map<string, Bundle>();
  readonly violations: string[] = [];
  /** Names of the methods that were called, in order; those that were refused too. */
  readonly calls: string[] = [];
  /** The ids that were asked for, request by request. */
  readonly asked: string[][] = [];
  /** What the agents answered to challenges. */
  readonly answers: Buffer[] = [];
  readonly #options: Options;
  readonly #tokens = new Set<string>();
  readonly #agents = new SpireAgentRecords();
  readonly #jwtAuthority: Bundle['jwtAuthorities'][number];
  #listener: GrpcListener | undefined;

  private constructor(
    authority: SpireAuthority,
    jwtAuthority: Bundle['jwtAuthorities'][number],
    options: Options,
  ) {
    this.authority = authority;
    this.#jwtAuthority = jwtAuthority;
    this.#options = options;
  }

  /** A server of `example.org`; stops when the current test ends. */
  static async start(options: Options): Promise<SpireServer> {
    const nowMs = options.clock.now();
    const { hasUpstream = false } = options;
    const authority = await SpireAuthority.create(trustDomain, { nowMs, hasUpstream });
    const jwtSigner = createSoftwareSigner(await generatePrivateKey('ec-p256'));
    const jwtAuthority = {
      publicKey: Buffer.from(jwtSigner.publicKey),
      keyId: randomUUID(),
      expiresAt: BigInt(Math.floor(nowMs / secondMs) + 86_400),
      tainted: false,
    };
    const server = new SpireServer(authority, jwtAuthority, options);
    await server.#listen();
    return server;
  }

  get address(): string {
    return this.#listener?.address ?? '';
  }

  /** A join token, for one use. */
  newToken(): string {
    const token = randomUUID();
    this.#tokens.add(token);
    return token;
  }

  /** Makes or replaces entries with these ids, each with a revision of its own. */
  putEntries(ids: readonly string[], fields: Partial<Entry> = {}): void {
    for (const id of ids) {
      const before = this.entries.get(id);
      this.entries.set(id, {
        ...Entry.decode(new Uint8Array(0)),
        id,
        spiffeId: { trustDomain, path: `/workload/${id}` },
        parentId: { trustDomain, path: '/spire/agent/join_token/x' },
        selectors: [{ type: 'unix', value: `user:${id}` }],
        revisionNumber: before === undefined ? 0n : before.revisionNumber + 1n,
        createdAt: before?.createdAt ?? BigInt(Math.floor(this.#options.clock.now() / secondMs)),
        ...fields,
      });
    }
  }

  ban(): void {
    this.#agents.banAll();
  }

  async #listen(): Promise<void> {
    const { clock, maxConnectionAgeMs = 180_000 } = this.#options;
    const tls = await this.authority.serverTls(clock.now());
    const listener = await GrpcListener.tls({
      host: '127.0.0.1',
      port: 0,
      identity: new Observable<TlsIdentity | undefined>(tls),
      verifyClient: (chain) => X509Svid.parse(chain).id,
      authorize: (caller, method) => this.#authorize(caller, method),
      services: this.#services(),
      limits: { maxConnectionAgeMs, maxReceiveBytes: 4 * 1024 * 1024 },
      log: silentLogger,
    });
    this.#listener = listener;
    onTestFinished(() => listener.stop(0));
  }

  #authorize(caller: Caller, path: string): void {
    const method = path.slice(path.lastIndexOf('/') + 1);
    this.calls.push(method);
    if (method === 'AttestAgent' || method === 'GetBundle') {
      if (method === 'AttestAgent' && caller.kind !== 'anonymous') {
        this.violations.push('AttestAgent with a client certificate');
      }
      return;
    }
    const forAgents = [
      'RenewAgent',
      'PostStatus',
      'GetFederatedBundle',
      'GetAuthorizedEntries',
      'SyncAuthorizedEntries',
      'BatchNewX509SVID',
      'NewJWTSVID',
    ];
    if (caller.kind !== 'svid' || !forAgents.includes(method)) {
      throw refused('permission-denied', `authorization denied for method ${path}`);
    }
    this.#agents.require(caller.id.toString(), caller.certificate, this.#options.clock.now());
  }

  #services() {
    return [
      serviceOf(AgentService, {
        attestAgent: bidi((requests: AsyncIterable<AttestAgentRequest>) => this.#attest(requests)),
        renewAgent: unary(async ({ params }, { caller }) => ({ svid: await this.#renew(caller, params) })),
        postStatus: unary(async ({ agentVersion }) => {
          if (agentVersion.length > 255) {
            throw refused('invalid-argument', 'agent version is too long (max 255 characters)');
          }
          return {};
        }),
      }),
      serviceOf(BundleService, {
        getBundle: unary(async () => this.#bundle()),
        getFederatedBundle: unary(async ({ trustDomain: name }) => this.#federatedBundle(name)),
      }),
      serviceOf(EntryService, {
        getAuthorizedEntries: unary(async ({ outputMask }) => ({
          entries: [...this.entries.values()].map((entry) => masked(entry, outputMask)),
        })),
        syncAuthorizedEntries: bidi((requests: AsyncIterable<SyncAuthorizedEntriesRequest>) =>
          this.#sync(requests),
        ),
      }),
      serviceOf(SVIDService, {
        batchNewX509Svid: unary(async ({ params }) => {
          if (params.length === 0) throw refused('invalid-argument', 'missing parameters');
          if (params.length > signBurst) {
            const text = `rate: Wait(n=${params.length}) exceeds limiter's burst ${signBurst}`;
            throw refused('resource-exhausted', `rate limit exceeded: ${text}`);
          }
          return { results: await Promise.all(params.map((item) => this.#newSvid(item))) };
        }),
      }),
    ];
  }

  async *#attest(requests: AsyncIterable<AttestAgentRequest>): AsyncGenerator<AttestAgentResponse> {
    const incoming = requests[Symbol.asyncIterator]();
    const malformed = (text: string) => refused('invalid-argument', `malformed param: ${text}`);
    const first = (await incoming.next()).value?.step;
    if (first?.$case !== 'params') throw malformed('missing params');
    const { data, params } = first.value;
    if (data === undefined) throw malformed('missing attestation data');
    if (params === undefined) throw malformed('missing X509-SVID parameters');
    if (params.csr.length === 0) throw malformed('missing CSR');
    if (data.type === '') throw malformed('missing attestation data type');
    if (data.payload.length === 0) throw malformed('missing attestation data payload');
    const csr = parseCsr(params.csr);
    verifyCsr(csr);
    if (csr.uris.length > 0) this.violations.push('the CSR of an agent names somebody');
    if (csr.keyType !== 'ec-p256') this.violations.push(`the key of an agent is ${csr.keyType}`);
    if (data.type !== 'join_token') {
      const text = `could not find node attestor type "${data.type}"`;
      throw refused('failed-precondition', `error getting node attestor: ${text}`);
    }
    for (const challenge of this.#options.challenges ?? []) {
      yield { step: { $case: 'challenge', value: Buffer.from(challenge) } };
      const answer = (await incoming.next()).value?.step;
      if (answer?.$case !== 'challengeResponse') throw malformed('missing challenge response');
      this.answers.push(answer.value);
    }
    const token = data.payload.toString();
    const { reattestable = false } = this.#options;
    if (!this.#tokens.has(token)) {
      const text = 'failed to attest: join token does not exist or has already been used';
      throw refused('invalid-argument', text);
    }
    if (!reattestable) this.#tokens.delete(token);
    const svid = await this.#sign(`/spire/agent/join_token/${token}`, csr.spki, this.#agentTtlMs);
    this.#agents.attested(svid.id, svid.chain[0]?.serialDecimal ?? '');
    yield { step: { $case: 'result', value: { svid: svid.wire, reattestable } } };
  }

  async #renew(caller: Caller, params: { readonly csr: Buffer } | undefined): Promise<X509SVID> {
    if (params === undefined) throw refused('invalid-argument', 'params cannot be nil');
    if (params.csr.length === 0) throw refused('invalid-argument', 'missing CSR');
    if (caller.kind !== 'svid') throw refused('internal', 'caller ID missing from request context');
    if (this.#options.reattestable === true) {
      throw refused('permission-denied', 'agent must reattest instead of renew', 'AGENT_MUST_REATTEST');
    }
    const csr = parseCsr(params.csr);
    verifyCsr(csr);
    const svid = await this.#sign(caller.id.path, csr.spki, this.#agentTtlMs);
    this.#agents.renewed(svid.id, svid.chain[0]?.serialDecimal ?? '');
    return svid.wire;
  }

  #bundle(): Bundle {
    return {
      trustDomain,
      x509Authorities: [{ asn1: this.authority.root.certificate.der, tainted: false }],
      jwtAuthorities: [this.#jwtAuthority],
      witAuthorities: [],
      refreshHint: 300n,
      sequenceNumber: 3n,
    };
  }

  #federatedBundle(name: string): Bundle {
    if (!/^[-a-z0-9._]+$/.test(name)) {
      throw refused('invalid-argument', `trust domain argument is not valid: ${JSON.stringify(name)}`);
    }
    if (name === trustDomain) {
      const text = "getting a federated bundle for the server's own trust domain is not allowed";
      throw refused('invalid-argument', text);
    }
    const bundle = this.federated.get(name);
    if (bundle === undefined) throw refused('not-found', 'bundle not found');
    return bundle;
  }

  async *#sync(
    requests: AsyncIterable<SyncAuthorizedEntriesRequest>,
  ): AsyncGenerator<SyncAuthorizedEntriesResponse> {
    const incoming = requests[Symbol.asyncIterator]();
    const first = (await incoming.next()).value as SyncAuthorizedEntriesRequest | undefined;
    if (first === undefined) return;
    if (first.ids.length > 0) {
      throw refused('invalid-argument', 'specifying IDs on initial request is not supported');
    }
    if (first.outputMask !== undefined && !first.outputMask.revisionNumber) {
      throw refused('invalid-argument', 'revision number cannot be masked');
    }
    const entries = [...this.entries.values()].map((entry) => masked(entry, first.outputMask));
    if (entries.length <= pageSize) {
      yield { entries, entryRevisions: [], more: false };
      return;
    }
    for (let start = 0; start < entries.length; start += pageSize) {
      const entryRevisions = entries.slice(start, start + pageSize).map((entry) => ({
        id: entry.id,
        revisionNumber: entry.revisionNumber,
        createdAt: this.#options.isOld === true ? 0n : entry.createdAt,
      }));
      yield { entries: [], entryRevisions, more: start + pageSize < entries.length };
    }
    const byId = new Map(entries.map((entry) => [entry.id, entry]));
    const seen = new Set<string>();
    for (let next = await incoming.next(); next.done !== true; next = await incoming.next()) {
      const { ids } = next.value;
      this.#noteAsked(ids, seen, byId);
      // One answer: what is asked for fits a page, or is a violation.
      yield { entries: ids.flatMap((id) => byId.get(id) ?? []), entryRevisions: [], more: false };
    }
  }

  #noteAsked(ids: string[], seen: Set<string>, byId: ReadonlyMap<string, Entry>): void {
    this.asked.push(ids);
    if (ids.length === 0 || ids.length > pageSize)
      this.violations.push(`${ids.length} entries asked for at once`);
    for (const id of ids) {
      if (seen.has(id)) this.violations.push(`entry ${id} asked for twice`);
      if (!byId.has(id)) this.violations.push(`entry ${id} asked for, which is not there`);
      seen.add(id);
    }
  }

  async #newSvid({ entryId, csr }: { readonly entryId: string; readonly csr: Buffer }) {
    try {
      if (entryId === '') throw refused('invalid-argument', 'missing entry ID');
      if (csr.length === 0) throw refused('invalid-argument', 'missing CSR');
      const entry = this.entries.get(entryId);
      if (entry?.spiffeId === undefined) throw refused('not-found', 'entry not found or not authorized');
      const request = parseCsr(csr);
      verifyCsr(request);
      const { path } = entry.spiffeId;
      if (request.uris.join() !== `spiffe://${trustDomain}${path}`)
        this.violations.push(`the CSR for ${path} names ${request.uris.join()}`);
      const ttlMs =
        entry.x509SvidTtl === 0
          ? (this.#options.svidTtlMs ?? 3_600 * secondMs)
          : entry.x509SvidTtl * secondMs;
      return { status: itemStatus(), svid: (await this.#sign(path, request.spki, ttlMs)).wire };
    } catch (error) {
      return { status: itemStatus(error), svid: undefined };
    }
  }

  get #agentTtlMs(): number {
    return this.#options.agentTtlMs ?? 3_600 * secondMs;
  }

  async #sign(path: string, spki: Uint8Array, ttlMs: number) {
    const nowMs = this.#options.clock.now();
    const chain = await this.authority.issue({ path, spki, nowMs, ttlMs });
    const wire: X509SVID = {
      certChain: chain.map(({ der }) => der),
      id: { trustDomain, path },
      expiresAt: BigInt(Math.floor((nowMs + ttlMs) / secondMs)),
      hint: '',
    };
    return { chain, wire, id: `spiffe://${trustDomain}${path}` };
  }
}

/** The id, and what the mask names. */
function masked(entry: Entry, mask: EntryMask | undefined): Entry {
  if (mask === undefined) return entry;
  const named = Object.entries(entry).filter(([field]) => mask[field as keyof EntryMask] === true);
  return { ...Entry.decode(new Uint8Array(0)), id: entry.id, ...Object.fromEntries(named) };
}
