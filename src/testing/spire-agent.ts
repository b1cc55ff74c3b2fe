import { type ClientDuplexStream, status } from '@grpc/grpc-js';
import { AgentService } from '../gen/spire/api/server/agent/v1/agent.ts';
import { BundleService } from '../gen/spire/api/server/bundle/v1/bundle.ts';
import { EntryService, type SyncAuthorizedEntriesResponse } from '../gen/spire/api/server/entry/v1/entry.ts';
import { SVIDService } from '../gen/spire/api/server/svid/v1/svid.ts';
import type { Bundle } from '../gen/spire/api/types/bundle.ts';
import type { Entry, EntryMask } from '../gen/spire/api/types/entry.ts';
import { parseCertificates } from '../x509/certificate.ts';
import { Received } from './received.ts';
import { spireAgentMask } from './spire-agent-mask.ts';
import {
  chainOf,
  csrOf,
  newKey,
  SpireCallError,
  SpireConnection,
  type SpireSvid,
} from './spire-connection.ts';

const maxCsrs = 500;

/** What a sync changed, as SPIRE counts it; `asked` is the number of ids in each request for whole entries. */
export interface SpireSyncStats {
  readonly total: number;
  readonly missing: number;
  readonly stale: number;
  readonly dropped: number;
  readonly asked: readonly number[];
}

/**
 * The server's peer as SPIRE's own agent of 1.12 to 1.15 is: the calls in its order, with its masks, requests and
 * CSRs, over grpc-js's own TLS (TLS 1.2 or later, ALPN h2, SNI, no resumption), with none of our clients. What would
 * make that agent give up a round throws here; what it would only complain about is kept in `complaints`.
 */
export class SpireAgent {
  readonly entries = new Map<string, Entry>();
  readonly complaints: string[] = [];
  readonly reattestable: boolean;
  bundle: Bundle;
  svid: SpireSvid;
  readonly #address: string;
  #connection: SpireConnection;

  private constructor(address: string, attested: Attested) {
    this.#address = address;
    this.reattestable = attested.reattestable;
    this.bundle = attested.bundle;
    this.svid = attested.svid;
    this.complaints.push(...attested.complaints);
    this.#connection = this.#connect();
  }

  /** Attests over a connection without a certificate, on which the bundle is fetched too; `answer` is for challenges. */
  static async attest(options: {
    /** `HOST:PORT`. */
    readonly address: string;
    /** PEM. */
    readonly bootstrapBundle: string;
    readonly type: string;
    readonly payload: Uint8Array;
    readonly answer?: (challenge: Uint8Array) => Uint8Array;
  }): Promise<SpireAgent> {
    const { address, bootstrapBundle } = options;
    return new SpireAgent(address, await attest(new SpireConnection(address, bootstrapBundle), options));
  }

  /** `spiffe://…` of the agent's certificate. */
  get id(): string {
    return this.svid.chain[0]?.uris[0] ?? '';
  }

  async postStatus(agentVersion: string): Promise<void> {
    await this.#connection.unary(AgentService.postStatus, { currentBundleSerial: 0n, agentVersion });
  }

  /** One turn of its loop: entries, bundle, and the bundles of the trust domains that the entries federate with. */
  async sync(): Promise<SpireSyncStats> {
    const stats = await this.#syncEntries();
    this.bundle = await this.#connection.unary(BundleService.getBundle, { outputMask: undefined });
    const foreign = new Set([...this.entries.values()].flatMap(({ federatesWith }) => federatesWith));
    await Promise.all([...foreign].sort().map((name) => this.#federatedBundle(name)));
    return stats;
  }

  /** As agents did before there was a stream: all entries in one answer. */
  async fetchEntries(): Promise<void> {
    const { entries } = await this.#connection.unary(EntryService.getAuthorizedEntries, {
      outputMask: spireAgentMask,
    });
    this.entries.clear();
    this.#take(entries);
  }

  /** One certificate for each of these entries, in batches of 500; what the server would not sign is left out. */
  async newX509Svids(entryIds: readonly string[]): Promise<ReadonlyMap<string, SpireSvid>> {
    const svids = new Map<string, SpireSvid>();
    for (let start = 0; start < entryIds.length; start += maxCsrs) {
      const requests = entryIds.slice(start, start + maxCsrs).map((entryId) => ({ entryId, key: newKey() }));
      const params = await Promise.all(
        requests.map(async ({ entryId, key }) => ({ entryId, csr: await csrOf(key, this.#idOf(entryId)) })),
      );
      const { results } = await this.#connection.unary(SVIDService.batchNewX509Svid, { params });
      for (const [i, { status: itemStatus, svid }] of results.entries()) {
        const { entryId, key } = requests[i]!;
        if (itemStatus?.code !== status.OK)
          this.complaints.push(`Failed to mint X509 SVID: ${itemStatus?.message}`);
        if (svid !== undefined) svids.set(entryId, { chain: chainOf(svid), key });
      }
    }
    return svids;
  }

  /** A new certificate for a new key; the connection is given up for one that presents it. */
  async renew(): Promise<void> {
    const key = newKey();
    const params = { csr: await csrOf(key) };
    const { svid } = await this.#connection.unary(AgentService.renewAgent, { params });
    this.svid = { chain: chainOf(svid), key };
    this.reconnect();
  }

  /** What SPIRE does after any call that failed, too. */
  reconnect(): void {
    this.#connection.close();
    this.#connection = this.#connect();
  }

  #connect(): SpireConnection {
    const roots = this.bundle.x509Authorities.flatMap(({ asn1 }) => parseCertificates(asn1));
    return new SpireConnection(this.#address, roots.map((root) => root.toPem()).join(''), this.svid);
  }

  #idOf(entryId: string): string {
    const id = this.entries.get(entryId)?.spiffeId;
    return id === undefined ? 'spiffe://unknown/' : `spiffe://${id.trustDomain}${id.path}`;
  }

  async #syncEntries(): Promise<SpireSyncStats> {
    const stream = this.#connection.stream(EntryService.syncAuthorizedEntries);
    const answers = new Received(stream);
    try {
      stream.write({ outputMask: spireAgentMask, ids: [] });
      const first = await nextOrError(answers);
      // A first answer without revisions is taken for the whole list, whatever `more` says.
      return first.entryRevisions.length === 0
        ? this.#replaceEntries(first.entries)
        : await this.#syncByRevision(first, stream, answers);
    } finally {
      stream.cancel();
    }
  }

  #replaceEntries(entries: readonly Entry[]): SpireSyncStats {
    const before = new Map(this.entries);
    this.entries.clear();
    return { ...this.#take(entries, before), ...this.#afterSync(before), asked: [] };
  }

  async #syncByRevision(
    first: SyncAuthorizedEntriesResponse,
    stream: SyncStream,
    answers: Received<SyncAuthorizedEntriesResponse>,
  ): Promise<SpireSyncStats> {
    const before = new Map(this.entries);
    const needed: string[] = [];
    const authorized = new Set<string>();
    for (let page = first; ; page = await nextOrError(answers)) {
      if (page.entries.length > 0) throw new Error('unexpected entry in response receiving entry revisions');
      for (const { id, revisionNumber, createdAt } of page.entryRevisions) {
        if (id === '' || revisionNumber < 0n) this.complaints.push(`Received malformed entry revision ${id}`);
        authorized.add(id);
        const known = before.get(id);
        if (known === undefined || isStale(known, { revisionNumber, createdAt })) needed.push(id);
      }
      if (!page.more) break;
    }
    needed.sort();
    const pageSize = first.entryRevisions.length;
    const asked: number[] = [];
    let [missing, stale] = [0, 0];
    for (let ids = needed.splice(0, pageSize); ids.length > 0; ids = needed.splice(0, pageSize)) {
      asked.push(ids.length);
      stream.write({ outputMask: undefined, ids });
      for (let page = await nextOrError(answers); ; page = await nextOrError(answers)) {
        if (page.entryRevisions.length > 0)
          throw new Error('unexpected entry revisions in response while requesting entries');
        const taken = this.#take(page.entries, before);
        missing += taken.missing;
        stale += taken.stale;
        if (!page.more) break;
      }
    }
    for (const id of this.entries.keys()) if (!authorized.has(id)) this.entries.delete(id);
    return { missing, stale, ...this.#afterSync(before), asked };
  }

  #afterSync(before: ReadonlyMap<string, Entry>): { readonly total: number; readonly dropped: number } {
    const dropped = [...before.keys()].filter((id) => !this.entries.has(id)).length;
    return { total: this.entries.size, dropped };
  }

  #take(entries: readonly Entry[], before: ReadonlyMap<string, Entry> = new Map()) {
    let [missing, stale] = [0, 0];
    for (const entry of entries) {
      const problem = problemOf(entry);
      if (problem !== undefined) {
        this.complaints.push(`Received malformed entry ${entry.id}: ${problem}`);
        continue;
      }
      const known = before.get(entry.id);
      if (known === undefined) missing += 1;
      else if (isStale(known, entry)) stale += 1;
      this.entries.set(entry.id, entry);
    }
    return { missing, stale };
  }

  async #federatedBundle(trustDomain: string): Promise<void> {
    const request = { trustDomain, outputMask: undefined };
    await this.#connection.unary(BundleService.getFederatedBundle, request).catch((error: unknown) => {
      if (!(error instanceof SpireCallError) || error.code !== status.NOT_FOUND) throw error;
      this.complaints.push(`Federated bundle not found: ${trustDomain}`);
    });
  }
}

interface Attested {
  readonly svid: SpireSvid;
  readonly bundle: Bundle;
  readonly reattestable: boolean;
  readonly complaints: readonly string[];
}

async function attest(
  connection: SpireConnection,
  options: Pick<Parameters<typeof SpireAgent.attest>[0], 'type' | 'payload' | 'answer'>,
): Promise<Attested> {
  const { type, payload, answer } = options;
  const key = newKey();
  const stream = connection.stream(AgentService.attestAgent);
  const answers = new Received(stream);
  const value = { data: { type, payload: Buffer.from(payload) }, params: { csr: await csrOf(key) } };
  stream.write({ step: { $case: 'params', value } });
  let step = (await nextOrError(answers)).step;
  for (; step?.$case === 'challenge'; step = (await nextOrError(answers)).step) {
    if (answer === undefined) throw new Error('the server sent a challenge');
    const challengeResponse = Buffer.from(answer(step.value));
    stream.write({ step: { $case: 'challengeResponse', value: challengeResponse } });
  }
  if (step?.$case !== 'result') throw new Error('the attestation ended without a result');
  stream.end();
  const trailing = await answers.ended;
  const complaints =
    trailing === undefined ? [] : [`unexpected result on trailing recv: ${trailing.message}`];
  const bundle = await connection.unary(BundleService.getBundle, { outputMask: undefined });
  connection.close();
  const { svid, reattestable } = step.value;
  return { svid: { chain: chainOf(svid), key }, bundle, reattestable, complaints };
}

/** The next message; throws what ended the stream as SPIRE sees it. */
async function nextOrError<T>(answers: Received<T>): Promise<T> {
  return await answers.next().catch(async (cause: unknown) => {
    const error = await answers.ended;
    throw error === undefined ? cause : new SpireCallError(error);
  });
}

type SyncStream = ClientDuplexStream<
  { outputMask: EntryMask | undefined; ids: string[] },
  SyncAuthorizedEntriesResponse
>;

function isStale(known: Entry, now: Pick<Entry, 'revisionNumber' | 'createdAt'>): boolean {
  return known.revisionNumber !== now.revisionNumber || known.createdAt !== now.createdAt;
}

/** Why SPIRE's agent leaves an entry out, if it does. */
function problemOf({ id, spiffeId, selectors, federatesWith }: Entry): string | undefined {
  if (id === '') return 'missing entry ID';
  if (spiffeId === undefined || spiffeId.trustDomain === '') return 'request must specify SPIFFE ID';
  if (federatesWith.some((name) => !/^[-a-z0-9._]+$/.test(name))) return 'invalid federated trust domain';
  if (selectors.length === 0) return 'selector list is empty';
  const bad = selectors.find(({ type, value }) => type === '' || type.includes(':') || value === '');
  return bad === undefined ? undefined : 'missing selector type or value';
}
