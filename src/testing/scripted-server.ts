import { onTestFinished } from 'vitest';
import { AgentService } from '../gen/spire/api/server/agent/v1/agent.ts';
import { BundleService } from '../gen/spire/api/server/bundle/v1/bundle.ts';
import { EntryService, SyncAuthorizedEntriesResponse } from '../gen/spire/api/server/entry/v1/entry.ts';
import { SVIDService } from '../gen/spire/api/server/svid/v1/svid.ts';
import type { X509SVID } from '../gen/spire/api/types/x509svid.ts';
import type { Caller } from '../rpc/caller.ts';
import { GrpcListener } from '../rpc/grpc-server.ts';
import { bidi, serviceOf, unary } from '../rpc/handlers.ts';
import { bundleToWire, spiffeIdToWire } from '../rpc/messages.ts';
import { itemStatus } from '../rpc/status.ts';
import type { TlsIdentity } from '../rpc/tls-listener.ts';
import { AppError } from '../runtime/error.ts';
import { silentLogger } from '../runtime/log.ts';
import { Observable } from '../runtime/observable.ts';
import { type Clock, systemClock } from '../runtime/time.ts';
import { EntryEncoder } from '../server/api/entry-encoder.ts';
import { syncAuthorizedEntries } from '../server/api/entry-sync.ts';
import { leafTemplate } from '../server/authority/template.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { X509Svid } from '../spiffe/x509-svid.ts';
import { Certificate } from '../x509/certificate.ts';
import { type CertificateRequest, parseCsr } from '../x509/csr.ts';
import { issueCertificate } from '../x509/issue.ts';
import { TestIdentity } from './certificates.ts';
import { bundleOf } from './trust-domain.ts';

const hourMs = 3_600_000;
const yearMs = 8_766 * hourMs;

/** A certificate with its chain, as servers answer with it. */
export type Chain = readonly Certificate[];

/**
 * What a server answers to agents. A test replaces what it wants otherwise, wrong answers included; thrown AppErrors
 * arrive at the caller.
 */
export interface ServerScript {
  bundle: Bundle;
  entries: readonly RegistrationEntry[];
  /** `signal` aborts when the caller has gone. */
  federated: (trustDomain: string, signal: AbortSignal) => Promise<Bundle>;
  /** Asked before each call that needs an agent; throws what is to be answered instead. */
  refuse: (method: string) => void;
  postStatus: (agentVersion: string) => void;
  reattestable: boolean;
  attest: (csr: CertificateRequest, payload: Uint8Array) => Promise<Chain>;
  renew: (csr: CertificateRequest) => Promise<Chain>;
  signEntry: (entry: RegistrationEntry, csr: CertificateRequest) => Promise<Chain>;
}

/**
 * The server's side of the agent API on a real TLS listener, with a CA but without any rule: it answers what the
 * script says and keeps what reached it. Stops when the current test ends. Certificates are of `clock`'s time.
 */
export class ScriptedServer {
  readonly root: TestIdentity;
  readonly script: ServerScript;
  /** Names of the methods that were called, in order. */
  readonly calls: string[] = [];
  /** Who called last. */
  caller: Caller | undefined;
  readonly #clock: Clock;
  #listener: GrpcListener | undefined;

  private constructor(root: TestIdentity, clock: Clock) {
    this.root = root;
    this.#clock = clock;
    const agentId = 'spiffe://example.org/spire/agent/test';
    this.script = {
      bundle: bundleOf('example.org', [root.certificate]),
      entries: [],
      federated: () => Promise.reject(new AppError('not-found', 'bundle not found')),
      refuse: () => undefined,
      postStatus: () => undefined,
      reattestable: false,
      attest: async (csr) => [await this.issue(agentId, csr.spki)],
      renew: async (csr) => [await this.issue(agentId, csr.spki)],
      signEntry: async (entry, csr) => [
        await this.issue(entry.spiffeId.toString(), csr.spki, {
          ...(entry.x509SvidTtlSeconds === 0 ? {} : { ttlMs: entry.x509SvidTtlSeconds * 1000 }),
        }),
      ],
    };
  }

  /** `id` is what it says it is in TLS; `issuer` who says so, itself unless another is given. */
  static async start(options: {
    readonly clock: Clock;
    readonly id?: string;
    readonly issuer?: TestIdentity;
    readonly notAfterMs?: number;
  }): Promise<ScriptedServer> {
    const { clock, id = 'spiffe://example.org/spire/server' } = options;
    const nowMs = clock.now();
    const lifetime = { notBeforeMs: nowMs - hourMs, notAfterMs: nowMs + yearMs };
    const root = await TestIdentity.root('example.org', lifetime);
    const server = new ScriptedServer(root, clock);
    const { notAfterMs = nowMs + yearMs } = options;
    const leaf = await (options.issuer ?? root).issue(id, { ...lifetime, notAfterMs });
    await server.#listen({
      certificateChainPem: leaf.certificate.toPem(),
      privateKeyPem: leaf.privateKeyPem,
      clientCaPem: root.certificate.toPem(),
    });
    return server;
  }

  get address(): string {
    return this.#listener?.address ?? '';
  }

  /** A certificate below our root, or another issuer, for an hour from now. */
  async issue(
    id: string,
    spki: Uint8Array,
    options: { readonly issuer?: TestIdentity; readonly ttlMs?: number } = {},
  ): Promise<Certificate> {
    const { issuer = this.root, ttlMs = hourMs } = options;
    const request = { id: SpiffeId.parse(id), spki, dnsNames: [], ttlMs };
    const template = leafTemplate(request, issuer.certificate, this.#clock.now());
    return Certificate.parse(await issueCertificate(template, issuer.signer));
  }

  async #listen(identity: TlsIdentity): Promise<void> {
    const listener = await GrpcListener.tls({
      host: '127.0.0.1',
      port: 0,
      identity: new Observable<TlsIdentity | undefined>(identity),
      verifyClient: (chain) => X509Svid.parse(chain).id,
      authorize: (caller, method) => {
        const name = method.slice(method.lastIndexOf('/') + 1);
        this.calls.push(name);
        this.caller = caller;
        if (caller.kind === 'svid') this.script.refuse(name);
      },
      services: this.#services(),
      log: silentLogger,
    });
    this.#listener = listener;
    onTestFinished(() => listener.stop(0));
  }

  #services() {
    const { script } = this;
    return [
      serviceOf(AgentService, {
        attestAgent: bidi(async function* (requests) {
          for await (const { step } of requests) {
            if (step?.$case !== 'params') throw new AppError('invalid-argument', 'unexpected step');
            const { data, params } = step.value;
            const csr = parseCsr(params?.csr ?? Buffer.of());
            const svid = svidToWire(await script.attest(csr, data?.payload ?? Buffer.of()));
            yield { step: { $case: 'result', value: { svid, reattestable: script.reattestable } } };
            return;
          }
        }),
        postStatus: unary(async ({ agentVersion }) => {
          script.postStatus(agentVersion);
          return {};
        }),
        renewAgent: unary(async ({ params }) => ({
          svid: svidToWire(await script.renew(parseCsr(params?.csr ?? Buffer.of()))),
        })),
      }),
      serviceOf(BundleService, {
        getBundle: unary(async () => bundleToWire(script.bundle)),
        getFederatedBundle: unary(async ({ trustDomain }, { signal }) =>
          bundleToWire(await script.federated(trustDomain, signal)),
        ),
      }),
      serviceOf(EntryService, {
        syncAuthorizedEntries: bidi(async function* (requests, { signal }) {
          const wait = { encoder: new EntryEncoder(), clock: systemClock, signal };
          for await (const bytes of syncAuthorizedEntries(requests, script.entries, wait)) {
            yield SyncAuthorizedEntriesResponse.decode(bytes);
          }
        }),
      }),
      serviceOf(SVIDService, {
        batchNewX509Svid: unary(async ({ params }) => ({
          results: await Promise.all(params.map(({ entryId, csr }) => this.#result(entryId, csr))),
        })),
      }),
    ];
  }

  async #result(entryId: string, csr: Uint8Array) {
    const { script } = this;
    try {
      const entry = script.entries.find(({ id }) => id === entryId);
      if (entry === undefined) throw new AppError('not-found', 'entry not found or not authorized');
      const svid = svidToWire(await script.signEntry(entry, parseCsr(csr)));
      return { status: itemStatus(), svid };
    } catch (error) {
      return { status: itemStatus(error), svid: undefined };
    }
  }
}

function svidToWire(chain: Chain): X509SVID {
  const leaf = chain[0];
  const id = leaf?.uris[0];
  return {
    certChain: chain.map(({ der }) => der),
    id: id === undefined ? undefined : spiffeIdToWire(SpiffeId.parse(id)),
    expiresAt: BigInt(Math.floor((leaf?.notAfterMs ?? 0) / 1000)),
    hint: '',
  };
}
