import type { DataStore } from '../plugin-api/data-store.ts';
import type { KeyManager } from '../plugin-api/key-manager.ts';
import { DiskKeyManager } from '../plugins/key-manager/disk.ts';
import { parseConfig } from '../runtime/config-file.ts';
import { silentLogger } from '../runtime/log.ts';
import type { StepObserver } from '../server/authority/journal-steps.ts';
import {
  type AuthorityRooms,
  openAuthority,
  type UpstreamParts,
} from '../server/authority/open-authority.ts';
import { BundleKeeper } from '../server/bundles/bundle-keeper.ts';
import { checkServerConfig, type ServerConfig, serverConfigSchema } from '../server/config.ts';
import { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { verifyX509Svid } from '../spiffe/x509-svid.ts';
import { type Certificate, parseCertificates } from '../x509/certificate.ts';
import type { FakeClock } from './fake-clock.ts';
import { newSigner } from './test-authority.ts';
import { openTestStore } from './test-store.ts';

/** The trust domain of all authority processes. */
export const authorityDomain = TrustDomain.parse('example.org');

const minuteMs = 60_000;
const noAbort = new AbortController().signal;
const workloadKey = await newSigner();

/** What one process is started with. */
export interface AuthorityProcessOptions {
  readonly dataDir: string;
  readonly clock: FakeClock;
  /** The section `authority` of the configuration, and others. */
  readonly settings?: Readonly<Record<string, unknown>>;
  /** Else keys on disk, in `dataDir`. */
  readonly keyManager?: KeyManager;
  readonly upstream?: (config: ServerConfig) => UpstreamParts | Promise<UpstreamParts>;
  readonly onStep?: StepObserver;
  /** Stands before the real stores. */
  readonly wrap?: <T extends object>(part: T) => T;
}

/** One process of a server on the files in `dataDir`, as far as its authority goes; time passes as the test says. */
export class AuthorityProcess {
  readonly options: AuthorityProcessOptions;
  readonly store: DataStore;
  readonly bundles: BundleKeeper;
  readonly rooms: AuthorityRooms;
  readonly keyManager: KeyManager;

  private constructor(
    options: AuthorityProcessOptions,
    parts: { store: DataStore; bundles: BundleKeeper; rooms: AuthorityRooms; keyManager: KeyManager },
  ) {
    this.options = options;
    this.store = parts.store;
    this.bundles = parts.bundles;
    this.rooms = parts.rooms;
    this.keyManager = parts.keyManager;
  }

  /** Starts a process that has not taken a step yet. */
  static async start(options: AuthorityProcessOptions): Promise<AuthorityProcess> {
    const { dataDir, clock, wrap = (part) => part, settings } = options;
    const fixed = { trustDomain: authorityDomain.name, dataDir };
    const config = parseConfig({ ...fixed, ...settings }, serverConfigSchema, 'test');
    checkServerConfig(config, 'test');
    const store = await openTestStore({ dataDir, clock });
    const log = silentLogger;
    const trustDomain = authorityDomain;
    const bundles = await BundleKeeper.load({ trustDomain, store: wrap(store.bundles), log });
    const keyManager = options.keyManager ?? (await DiskKeyManager.open({ dataDir }));
    const rooms = openAuthority(
      config,
      {
        trustDomain,
        store: { authorities: wrap(store.authorities), keys: wrap(store.keys) },
        keyManager: wrap(keyManager),
        upstream: await options.upstream?.(config),
        ...(options.onStep === undefined ? {} : { onAuthorityStep: options.onStep }),
        clock,
        log,
      },
      bundles,
    );
    return new AuthorityProcess(options, { store, bundles, rooms, keyManager });
  }

  /** One that can sign. */
  static async ready(options: AuthorityProcessOptions): Promise<AuthorityProcess> {
    const process = await AuthorityProcess.start(options);
    await process.step();
    return process;
  }

  get clock(): FakeClock {
    return this.options.clock;
  }

  /** What the ticks of the services do. */
  async step(): Promise<void> {
    await this.rooms.root?.rotation.step(noAbort);
    await this.rooms.rotation.step(noAbort);
  }

  /** Lets time pass as it does for a running server: with a step now and then. */
  async live(ms: number, stepMs = 30 * minuteMs): Promise<void> {
    for (let left = ms; left > 0; left -= stepMs) {
      await this.clock.advance(Math.min(left, stepMs));
      await this.step();
    }
  }

  /** Ends this process and starts another on its files, with other options if need be. */
  async restart(changes: Partial<AuthorityProcessOptions> = {}): Promise<AuthorityProcess> {
    await this.store.close();
    return AuthorityProcess.start({ ...this.options, ...changes });
  }

  /** The certificate that signs. */
  get signing(): Certificate | undefined {
    return this.rooms.authority.active.value?.certificate;
  }

  /** The roots that agents are given now, by subject key identifier. */
  get served(): readonly string[] {
    return this.bundles.own.value.certificates().map(({ subjectKeyId }) => subjectKeyId!);
  }

  /** Those of them that are tainted. */
  get tainted(): readonly string[] {
    return this.bundles.own.value.x509Authorities
      .filter(({ tainted }) => tainted)
      .map(({ certificate }) => certificate.subjectKeyId!);
  }

  /** Role, state and id of each record, in order of the text. */
  async journal(): Promise<readonly string[]> {
    const records = await this.store.authorities.list();
    return records.map(({ role, state, id }) => `${role} ${state} ${id}`).sort();
  }

  /** Signs a leaf for an agent and checks it as a peer with the served bundle would; the path, leaf first, root last. */
  async issue(ttlMs = 60 * minuteMs, use = 'web'): Promise<readonly Certificate[]> {
    const id = SpiffeId.of(authorityDomain, '/web');
    const request = { id, spki: workloadKey.publicKey, dnsNames: [], ttlMs };
    const holder = { agent: 'spiffe://example.org/spire/agent/test', use };
    const chain = (await this.rooms.authority.signX509Svid(request, holder)).chain.flatMap(parseCertificates);
    const bundle = this.bundles.own.value;
    verifyX509Svid({ chain, bundles: () => bundle, nowMs: this.clock.now() });
    const last = chain.at(-1)!;
    const root = bundle.certificates().find((anchor) => last.verifySignedBy(anchor))!;
    return [...chain, root];
  }

  /** As an agent does in two rounds: it fetches the bundle, then it calls for something else. */
  agentCalls(sequence = this.bundles.own.value.sequence): void {
    const agent = SpiffeId.of(authorityDomain, '/spire/agent/test');
    this.bundles.noteAgent(agent, this.clock.now(), sequence);
    this.bundles.noteAgent(agent, this.clock.now());
  }
}
