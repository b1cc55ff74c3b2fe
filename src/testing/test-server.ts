import type { KeyObject } from 'node:crypto';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { AdminClient } from '../clients/admin/admin-client.ts';
import { ServerClient } from '../clients/server-client.ts';
import type { DataStore } from '../plugin-api/data-store.ts';
import type { ServerNodeAttestor } from '../plugin-api/node-attestor.ts';
import { MemoryKeyManager } from '../plugins/key-manager/memory.ts';
import { createJoinToken, JoinTokenServerAttestor } from '../plugins/node-attestor/join-token.ts';
import { type ClientChannel, tlsChannel, unixChannel } from '../rpc/grpc-client.ts';
import { parseConfig } from '../runtime/config-file.ts';
import { type Logger, silentLogger } from '../runtime/log.ts';
import type { UpstreamParts } from '../server/authority/open-authority.ts';
import { type ServerConfig, serverConfigSchema } from '../server/config.ts';
import { runServer, type ServerAddresses } from '../server/server.ts';
import { type SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { verifyX509Svid } from '../spiffe/x509-svid.ts';
import type { Certificate } from '../x509/certificate.ts';
import { buildCsr } from '../x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey, type Signer } from '../x509/signature.ts';
import { FakeClock } from './fake-clock.ts';
import { tempDir } from './temp-dir.ts';
import { openTestStore } from './test-store.ts';

const trustDomain = TrustDomain.parse('example.org');

/** A key with the certificates that prove its holder. */
export interface TestHolder {
  readonly id: SpiffeId;
  readonly key: KeyObject;
  readonly signer: Signer;
  readonly chain: readonly Certificate[];
}

/** A holder with a connection as itself. */
export interface TestAgent extends TestHolder {
  readonly channel: ClientChannel;
  readonly client: ServerClient;
}

/** A signal that never aborts, for calls that a test waits for. */
export const noAbort: AbortSignal = new AbortController().signal;

/** A new key with its request for a certificate. */
export async function newRequest(uris: readonly string[] = []) {
  const key = await generatePrivateKey('ec-p256');
  const signer = createSoftwareSigner(key);
  return { key, signer, csr: await buildCsr({ signer, uris }) };
}

/**
 * A whole server of `example.org` with its two listeners, real but for the clock, which starts at the present: TLS
 * looks at the clock of the machine. It stops when the current test ends.
 */
export class TestServer {
  readonly trustDomain = trustDomain;
  readonly clock: FakeClock;
  readonly store: DataStore;
  readonly dataDir: string;
  /** As an administrator at the socket. */
  readonly admin: AdminClient;
  readonly adminChannel: ClientChannel;
  readonly #addresses: ServerAddresses;

  private constructor(parts: {
    dataDir: string;
    clock: FakeClock;
    store: DataStore;
    addresses: ServerAddresses;
  }) {
    this.clock = parts.clock;
    this.store = parts.store;
    this.dataDir = parts.dataDir;
    this.#addresses = parts.addresses;
    this.adminChannel = closedAtEnd(unixChannel(parts.addresses.adminSocket));
    this.admin = new AdminClient(this.adminChannel);
  }

  static async start(
    options: {
      /** Besides join_token. */
      readonly attestors?: Readonly<Record<string, ServerNodeAttestor>>;
      /** Put around the real join_token. */
      readonly joinToken?: (real: ServerNodeAttestor) => ServerNodeAttestor;
      /** Else one that starts at the present. */
      readonly clock?: FakeClock;
      /** Else it says nothing. */
      readonly log?: Logger;
      /** Who stands above its signing certificates. */
      readonly upstream?: (config: ServerConfig) => UpstreamParts;
      /** Besides what every test server has. */
      readonly settings?: Readonly<Record<string, unknown>>;
    } = {},
  ): Promise<TestServer> {
    const dataDir = tempDir();
    const clock = options.clock ?? new FakeClock(Date.now());
    const store = await openTestStore({ dataDir, clock });
    const adminSocket = join(dataDir, 'admin', 'admin.sock');
    const fixed = { trustDomain: trustDomain.name, dataDir, listen: '127.0.0.1:0', adminSocket };
    const config = parseConfig({ ...fixed, ...options.settings }, serverConfigSchema, 'test');
    const common = { trustDomain, clock, log: options.log ?? silentLogger };
    const realJoinToken = new JoinTokenServerAttestor({ ...common, dataDir, tokens: store.tokens });
    const joinToken = options.joinToken?.(realJoinToken) ?? realJoinToken;
    const attestors = new Map(Object.entries({ join_token: joinToken, ...options.attestors }));
    const newJoinToken = () => createJoinToken().token;
    const stop = new AbortController();
    const ready = Promise.withResolvers<ServerAddresses>();
    const running = runServer(
      config,
      {
        ...common,
        store,
        keyManager: new MemoryKeyManager(),
        upstream: options.upstream?.(config),
        attestors,
        newJoinToken,
      },
      { signal: stop.signal, onReady: ready.resolve },
    );
    running.catch(ready.reject);
    const addresses = await ready.promise;
    onTestFinished(() => {
      stop.abort();
      return running;
    });
    return new TestServer({ dataDir, clock, store, addresses });
  }

  /** `HOST:PORT` of the TLS listener. */
  get address(): string {
    return this.#addresses.listen;
  }

  get adminSocket(): string {
    return this.#addresses.adminSocket;
  }

  /** A connection over TLS, as nobody or as the holder of a certificate; the server must prove itself. */
  async connect(holder?: TestHolder): Promise<ClientChannel> {
    const bundle = await this.admin.bundles.getOwn({ signal: noAbort });
    const verifyServer = (chain: readonly Certificate[]) => {
      const nowMs = this.clock.now();
      const svid = verifyX509Svid({ chain, bundles: () => bundle, nowMs });
      if (svid.id.path !== '/spire/server') throw new Error(`the server is ${svid.id}`);
    };
    const mine =
      holder === undefined
        ? {}
        : {
            certificateChainPem: holder.chain.map((certificate) => certificate.toPem()).join(''),
            privateKeyPem: holder.key.export({ type: 'pkcs8', format: 'pem' }).toString(),
          };
    return closedAtEnd(tlsChannel({ address: this.address, tls: { verifyServer, ...mine } }));
  }

  /** Attests a new agent with a join token. */
  async join(options: { readonly alias?: SpiffeId } = {}): Promise<TestAgent> {
    const { value } = await this.admin.agents.createJoinToken({
      ttlSeconds: 600,
      agentId: options.alias,
      signal: noAbort,
    });
    const { key, signer, csr } = await newRequest();
    const { id, chain } = await new ServerClient(await this.connect()).attestAgent({
      type: 'join_token',
      payload: Buffer.from(value),
      csr,
      answer: () => Promise.reject(new Error('there is no challenge')),
      signal: noAbort,
    });
    return this.asAgent({ id, key, signer, chain });
  }

  async asAgent(holder: TestHolder): Promise<TestAgent> {
    const channel = await this.connect(holder);
    return { ...holder, channel, client: new ServerClient(channel) };
  }

  /** A certificate for any workload, as administrators mint it. */
  async mint(id: SpiffeId, ttlSeconds = 0): Promise<TestHolder> {
    const { key, signer, csr } = await newRequest([id.toString()]);
    const chain = await this.admin.svids.mintX509({ csr, ttlSeconds, signal: noAbort });
    return { id, key, signer, chain };
  }

  /** As an administrator does. */
  ban(id: SpiffeId): Promise<void> {
    return this.admin.agents.ban(id, { signal: noAbort });
  }
}

function closedAtEnd(channel: ClientChannel): ClientChannel {
  onTestFinished(() => channel.close());
  return channel;
}
