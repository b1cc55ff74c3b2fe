import { readFile } from 'node:fs/promises';
import { ServerClient } from '../clients/server-client.ts';
import { requireServerId, verifyServerChain } from '../clients/server-verification.ts';
import { tlsChannel } from '../rpc/grpc-client.ts';
import { AppError } from '../runtime/error.ts';
import type { Clock } from '../runtime/time.ts';
import { Bundle } from '../spiffe/bundle.ts';
import type { TrustDomain } from '../spiffe/spiffe-id.ts';
import { X509Svid } from '../spiffe/x509-svid.ts';
import { type Certificate, parsePemCertificates } from '../x509/certificate.ts';
import type { AgentConfig } from './config.ts';

/** What of the configuration decides how the server is met. */
type BootstrapConfig = Pick<AgentConfig, 'server' | 'trustBundle' | 'insecureBootstrap'> &
  Partial<Pick<AgentConfig, 'tls'>>;

/** A connection for attestation, without a client certificate. */
export interface Contact {
  readonly client: ServerClient;
  close(): void;
}

/**
 * The first contact with the server, when the agent has no identity yet: the server is believed only if it shows
 * the server's SPIFFE ID under the roots that the configuration trusts.
 */
export class Bootstrap {
  readonly #trustDomain: TrustDomain;
  readonly #config: BootstrapConfig;
  readonly #clock: Clock;

  constructor(trustDomain: TrustDomain, config: BootstrapConfig, clock: Clock) {
    this.#trustDomain = trustDomain;
    this.#config = config;
    this.#clock = clock;
  }

  /**
   * Connects, trusting `known` (the bundle of an earlier identity) and what the configuration trusts: after a long
   * absence the server may have other roots than those we know, and the administrator's word then counts. A server
   * is believed blindly only while nothing is known.
   */
  async connect(known: Bundle | undefined, signal: AbortSignal): Promise<Contact> {
    if (known === undefined && this.#config.trustBundle === undefined) {
      return this.#contact((chain) => this.#hasServerId(chain));
    }
    const configured = await this.#configuredRoots(signal).catch((error: unknown) => {
      if (known === undefined) throw error;
      return [];
    });
    const bundle = bundleOf(this.#trustDomain, [...(known?.certificates() ?? []), ...configured]);
    return this.#contact((chain) => this.#verify(chain, bundle));
  }

  async #configuredRoots(signal: AbortSignal): Promise<readonly Certificate[]> {
    const { trustBundle } = this.#config;
    if (trustBundle === undefined) return [];
    if ('file' in trustBundle) return readRoots(trustBundle.file);
    return this.#rootsByFingerprint(trustBundle.fingerprint, signal);
  }

  #contact(verifyServer: (chain: readonly Certificate[]) => void): Contact {
    const { server, tls } = this.#config;
    const channel = tlsChannel({
      address: server,
      tls: { verifyServer, postQuantum: tls?.postQuantum ?? 'prefer' },
    });
    return { client: new ServerClient(channel), close: () => channel.close() };
  }

  /** Reads the bundle unverified and keeps the roots with the wanted hash: only what it pins is then believed. */
  async #rootsByFingerprint(fingerprint: string, signal: AbortSignal): Promise<readonly Certificate[]> {
    const contact = this.#contact((chain) => this.#hasServerId(chain));
    try {
      const bundle = await contact.client.getBundle({ signal });
      const roots = bundle.certificates().filter((root) => `sha256:${root.fingerprint}` === fingerprint);
      if (roots.length > 0) return roots;
      throw new AppError(
        'failed-precondition',
        `trustBundle.fingerprint: the server at "${this.#config.server}" has no root with ${fingerprint}; compare with \`signet bundle show\` on the server`,
      );
    } finally {
      contact.close();
    }
  }

  #verify(chain: readonly Certificate[], bundle: Bundle): void {
    verifyServerChain(chain, { trustDomain: this.#trustDomain, bundle, nowMs: this.#clock.now() });
  }

  /** Only the name is compared: `insecureBootstrap`, or a first look whose result is checked by its hash. */
  #hasServerId(chain: readonly Certificate[]): void {
    requireServerId(X509Svid.parse(chain), this.#trustDomain);
  }
}

function bundleOf(trustDomain: TrustDomain, roots: readonly Certificate[]): Bundle {
  const x509Authorities = roots.map((certificate) => ({ certificate, tainted: false }));
  return new Bundle({ trustDomain, x509Authorities, sequence: 0, refreshHintSeconds: 0 });
}

async function readRoots(file: string): Promise<readonly Certificate[]> {
  const text = await readFile(file, 'utf8').catch((cause: unknown) => {
    throw new AppError(
      'failed-precondition',
      `trustBundle.file: cannot read "${file}"; write it with \`signet bundle show > ${file}\` on the server`,
      { cause },
    );
  });
  return parsePemCertificates(text);
}
