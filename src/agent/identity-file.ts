import { join } from 'node:path';
import { z } from 'zod';
import { parseConfig } from '../runtime/config-file.ts';
import { AppError } from '../runtime/error.ts';
import { readPrivateFile, writePrivateFile } from '../runtime/private-file.ts';
import { parseStrictJson } from '../runtime/strict-json.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import { bundleToSpiffeJwks, parseSpiffeJwks } from '../spiffe/bundle-document.ts';
import type { TrustDomain } from '../spiffe/spiffe-id.ts';
import { type Certificate, parsePemCertificates } from '../x509/certificate.ts';

/** Two key slots: the next key never overwrites the one in use. */
export const agentKeyIds = ['agent-svid-a', 'agent-svid-b'] as const;
export type AgentKeyId = (typeof agentKeyIds)[number];

/**
 * What `agent.json` holds: the agent's certificate chain, which key it is for, and the trust bundle. The chain is empty
 * once the server has banned the agent: all that is left is by what the server is known.
 */
export interface StoredIdentity {
  readonly keyId: AgentKeyId;
  readonly chain: readonly Certificate[];
  readonly bundle: Bundle;
  readonly reattestable: boolean;
}

const document = z.strictObject({
  version: z.literal(1),
  trustDomain: z.string(),
  keyId: z.enum(agentKeyIds),
  certificateChain: z.string(),
  bundle: z.string(),
  reattestable: z.boolean(),
});

/** The file `agent.json` of an agent's data directory. */
export class IdentityFile {
  readonly path: string;
  readonly #trustDomain: TrustDomain;

  constructor(dataDir: string, trustDomain: TrustDomain) {
    this.path = join(dataDir, 'agent.json');
    this.#trustDomain = trustDomain;
  }

  /**
   * Undefined when there is none; throws `failed-precondition` when it cannot be read or is open to others,
   * `invalid-argument` when it cannot be understood or belongs to another trust domain.
   */
  async read(): Promise<StoredIdentity | undefined> {
    const bytes = await readPrivateFile(this.path);
    if (bytes === undefined) return undefined;
    const stored = parseConfig(parseStrictJson(bytes.toString('utf8')), document, this.path);
    if (stored.trustDomain !== this.#trustDomain.name) {
      throw new AppError('invalid-argument', `it belongs to trust domain "${stored.trustDomain}"`);
    }
    return {
      keyId: stored.keyId,
      chain: stored.certificateChain === '' ? [] : parsePemCertificates(stored.certificateChain),
      bundle: parseSpiffeJwks(stored.bundle, this.#trustDomain),
      reattestable: stored.reattestable,
    };
  }

  /** Replaces the file in one step; durable when it resolves. */
  async write(identity: StoredIdentity): Promise<void> {
    const stored: z.infer<typeof document> = {
      version: 1,
      trustDomain: this.#trustDomain.name,
      keyId: identity.keyId,
      certificateChain: identity.chain.map((certificate) => certificate.toPem()).join(''),
      bundle: bundleToSpiffeJwks(identity.bundle),
      reattestable: identity.reattestable,
    };
    await writePrivateFile(this.path, `${JSON.stringify(stored, undefined, 2)}\n`);
  }

  /** Keeps a copy of a file that cannot be used; returns its path. */
  async setAside(): Promise<string> {
    const kept = `${this.path}.unusable`;
    const bytes = await readPrivateFile(this.path);
    if (bytes !== undefined) await writePrivateFile(kept, bytes);
    return kept;
  }
}
