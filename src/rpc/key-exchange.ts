import { createSecureContext, type TLSSocket } from 'node:tls';
import { AppError } from '../runtime/error.ts';
import type { PostQuantum } from '../runtime/tls-settings.ts';

/** ML-KEM with an elliptic curve: safe as long as either of the two is (draft-ietf-tls-ecdhe-mlkem). */
const hybrids = ['X25519MLKEM768', 'SecP384r1MLKEM1024', 'SecP256r1MLKEM768'] as const;
const classical = ['X25519', 'P-256', 'P-384', 'P-521'] as const;

/**
 * In OpenSSL's words (SSL_CTX_set1_groups_list(3)). `/`: a server that could have a hybrid asks for it, even when the
 * client has sent the key of a classical group only. `*`: a client sends the keys of both, so that a server without
 * hybrids need not ask again.
 */
const lists = {
  prefer: `*${hybrids.join(':')}/*${classical.join(':')}`,
  require: hybrids.join(':'),
  off: classical.join(':'),
} as const satisfies Record<PostQuantum, string>;

const newerNode = 'Node.js 24.5 or later with its own OpenSSL has it';

/** The key exchanges that one side of a connection takes part in. */
export class KeyExchange {
  readonly #mode: PostQuantum;
  readonly #hasHybrids: boolean;

  /** Throws `failed-precondition` when hybrids are required and OpenSSL has none. */
  constructor(mode: PostQuantum, hasHybrids = findHybrids()) {
    this.#mode = mode;
    this.#hasHybrids = hasHybrids;
    if (mode !== 'require' || hasHybrids) return;
    throw new AppError(
      'failed-precondition',
      `tls.postQuantum: require: OpenSSL ${process.versions.openssl} of this Node.js has no post-quantum key exchange; ${newerNode}`,
    );
  }

  /** As `node:tls` takes it. */
  get ecdhCurve(): string {
    return lists[this.#hasHybrids ? this.#mode : 'off'];
  }

  /** The setting, and whether it comes to anything; for people. */
  toString(): string {
    const known = `post-quantum key exchange: ${this.#mode}`;
    if (this.#mode === 'off' || this.#hasHybrids) return known;
    return `${known}, but OpenSSL ${process.versions.openssl} of this Node.js has none; ${newerNode}`;
  }

  /** At the server: why a handshake failed, if it is because the client offers nothing of ours. */
  findServerRefusal(error: unknown): AppError | undefined {
    if (codeOf(error) !== 'ERR_SSL_NO_SUITABLE_KEY_SHARE') return undefined;
    const remedy = {
      prefer: 'allow one of them at the client',
      require: 'set tls.postQuantum: prefer in agent.yaml, or update the client',
      off: 'set tls.postQuantum: prefer here or in agent.yaml',
    } as const satisfies Record<PostQuantum, string>;
    return new AppError(
      'unauthenticated',
      `the client offers no key exchange of ${this.#ours()}; ${remedy[this.#mode]}`,
    );
  }

  /** At the client: what an alert of the server says (RFC 8446 §6.2, handshake_failure), if it is about this. */
  findClientRefusal(error: unknown): string | undefined {
    if (codeOf(error)?.endsWith('_ALERT_HANDSHAKE_FAILURE') !== true) return undefined;
    const remedy = {
      prefer: this.#hasHybrids ? 'the log of the server says why' : newerNode,
      require: 'set tls.postQuantum: prefer here or at the server, or update the server',
      off: 'set tls.postQuantum: prefer here',
    } as const satisfies Record<PostQuantum, string>;
    return `the server accepts no key exchange of ${this.#ours()}; ${remedy[this.#mode]}`;
  }

  #ours(): string {
    const names = {
      prefer: this.#hasHybrids ? [...hybrids, ...classical] : classical,
      require: hybrids,
      off: classical,
    } as const satisfies Record<PostQuantum, readonly string[]>;
    return `ours (tls.postQuantum: ${this.#mode}; ${names[this.#mode].join(', ')})`;
  }
}

/** The group that a client's connection has settled on, such as `X25519MLKEM768`; a server cannot know it. */
export function findNegotiatedGroup(socket: TLSSocket): string | undefined {
  const info = socket.getEphemeralKeyInfo();
  return info !== null && 'name' in info && typeof info.name === 'string' ? info.name : undefined;
}

let found: boolean | undefined;

function findHybrids(): boolean {
  found ??= isKnown(lists.prefer);
  return found;
}

/** OpenSSL before 3.5 knows neither the groups nor the form of the list. */
function isKnown(ecdhCurve: string): boolean {
  try {
    createSecureContext({ ecdhCurve });
    return true;
  } catch {
    return false;
  }
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}
