import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { JoinTokenStore } from '../../plugin-api/data-store.ts';
import type {
  AgentNodeAttestor,
  NodeAttestation,
  ServerNodeAttestor,
  ServerNodeAttestorContext,
} from '../../plugin-api/node-attestor.ts';
import { AppError } from '../../runtime/error.ts';
import { type NewEntry, newEntry } from '../../spiffe/registration-entry.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import type { JoinTokenAgentConfig } from './join-token-config.ts';

/** How long the public key that redeemed a token may redeem it again, because the answer was lost. */
const repeatSeconds = 60;
/** Ours have 43 characters and SPIRE's 36; administrators may choose their own. */
const tokenMaxBytes = 1024;

/** A new token (256 bits, base64url) and the hash under which the store knows it. */
export function createJoinToken(): { readonly token: string; readonly hash: string } {
  const token = randomBytes(32).toString('base64url');
  return { token, hash: hashJoinToken(token) };
}

/** SHA-256 of the token text, lower-case hex: all that is ever stored of a token. */
export function hashJoinToken(token: string | Uint8Array): string {
  return createHash('sha256').update(token).digest('hex');
}

/** The name of a token in logs: the first 8 hex digits of its hash. */
function joinTokenLabel(hash: string): string {
  return hash.slice(0, 8);
}

/**
 * The path of the agent that joins with this token. SPIRE puts the token itself into the path, where every log and
 * certificate shows it; ours is the first half of a SHA-256 over the token's hash, which tells neither.
 */
export function joinTokenAgentPath(hash: string): string {
  const digest = createHash('sha256').update(`signet join_token agent path\0${hash}`).digest('hex');
  return `/spire/agent/join_token/${digest.slice(0, 32)}`;
}

/** The agent's half: the payload is the token text, and there is no challenge. */
export class JoinTokenAgentAttestor implements AgentNodeAttestor {
  readonly #config: JoinTokenAgentConfig;

  constructor(config: JoinTokenAgentConfig) {
    this.#config = config;
  }

  /** Reads the file at each call: a new token is picked up without a restart. Throws `failed-precondition`. */
  async payload(): Promise<Uint8Array> {
    const { token, tokenFile } = this.#config;
    if (token !== undefined) return Buffer.from(token);
    if (tokenFile === undefined) {
      throw failed(
        'this agent has not joined yet and needs a join token: make one with "signet token create" and set ' +
          'nodeAttestor.join_token.token or tokenFile',
      );
    }
    const text = await readFile(tokenFile, 'utf8').catch((cause: unknown) => {
      throw failed(`cannot read the join token file "${tokenFile}"`, cause);
    });
    // Editors and echo end a file with a line break.
    if (text.trim() === '') throw failed(`the join token file "${tokenFile}" is empty`);
    return Buffer.from(text.trim());
  }

  async answer(): Promise<Uint8Array> {
    throw failed('the server sent a challenge, but join_token has none');
  }
}

/** The server's half: a token is redeemed once, by one public key, and marked used before anything is signed. */
export class JoinTokenServerAttestor implements ServerNodeAttestor {
  readonly #context: ServerNodeAttestorContext;

  constructor(context: ServerNodeAttestorContext) {
    this.#context = context;
  }

  async verify(
    payload: Uint8Array,
    { publicKey }: { readonly publicKey: Uint8Array },
  ): Promise<NodeAttestation> {
    if (payload.length === 0 || payload.length > tokenMaxBytes) {
      throw new AppError('invalid-argument', `expected a join token of 1 to ${tokenMaxBytes} bytes`);
    }
    const hash = hashJoinToken(payload);
    const agentPath = joinTokenAgentPath(hash);
    const agentId = SpiffeId.of(this.#context.trustDomain, agentPath);
    const request = {
      hash,
      publicKeyHash: createHash('sha256').update(publicKey).digest('hex'),
      agentId,
      now: Math.floor(this.#context.clock.now() / 1000),
      repeatSeconds,
      aliasEntry: (aliasId: SpiffeId) => aliasEntry(aliasId, agentId),
    };
    await this.#redeem(request);
    return { agentPath, selectors: [], canReattest: false };
  }

  async #redeem(request: Parameters<JoinTokenStore['redeem']>[0]): Promise<void> {
    const { tokens, log } = this.#context;
    const redemption = await tokens.redeem(request);
    const label = joinTokenLabel(request.hash);
    const fields = { tokenHash: label, agentId: request.agentId.toString() };
    switch (redemption.outcome) {
      case 'redeemed':
        log.info({ ...fields, aliasEntryId: redemption.alias?.id }, 'join token redeemed');
        return;
      case 'repeated':
        log.info(fields, 'join token redeemed again by the same key; the first answer was lost');
        return;
      case 'expired':
        throw refused('join token expired', label);
      case 'unknown':
      case 'used':
        // One text for both, as SPIRE has it: a caller who guesses learns nothing.
        throw refused('failed to attest: join token does not exist or has already been used', label);
    }
  }
}

/**
 * What SPIRE makes for `token generate -spiffeID`: an entry below the agent that no workload matches. Entries
 * whose parent is the alias reach the agent through it.
 */
function aliasEntry(aliasId: SpiffeId, agentId: SpiffeId): NewEntry {
  return newEntry({
    id: randomUUID(),
    spiffeId: aliasId,
    parentId: agentId,
    selectors: [{ type: 'spiffe_id', value: agentId.toString() }],
  });
}

/** The texts are SPIRE's; the label is for the log only. */
function refused(message: string, label: string): AppError {
  return new AppError('invalid-argument', message, { cause: new Error(`token with hash ${label}…`) });
}

function failed(message: string, cause?: unknown): AppError {
  return new AppError('failed-precondition', message, { cause });
}
