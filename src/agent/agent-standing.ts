import { type AppError, isAppError } from '../runtime/error.ts';
import { Backoff, type Clock } from '../runtime/time.ts';
import type { SpiffeId } from '../spiffe/spiffe-id.ts';

/** What follows from a refusal by the server, by SPIRE's reasons (`spire.api.types.PermissionDeniedDetails`). */
const reactions = {
  AGENT_EXPIRED: 'attest',
  AGENT_NOT_ATTESTED: 'attest',
  AGENT_NOT_ACTIVE: 'attest',
  AGENT_MUST_REATTEST: 'attest',
  AGENT_BANNED: 'drop',
} as const;

/** An identity that was refused so soon after its attestation will be refused again: two agents may be sharing it. */
const quickMs = 10 * 60_000;

/** What the agent has to do about a failed call of its own, if anything. */
export function reactionTo(error: unknown): 'attest' | 'drop' | undefined {
  if (!isAppError(error, 'permission-denied') || error.reason === undefined) return undefined;
  return Object.hasOwn(reactions, error.reason)
    ? reactions[error.reason as keyof typeof reactions]
    : undefined;
}

/** How the agent stands with its server, and how long its attempts to attest have to wait. */
export class AgentStanding {
  readonly #clock: Clock;
  readonly #retries = new Backoff({ baseMs: 500, capMs: 30_000 });
  readonly #refusals = new Backoff({ baseMs: 2_000, capMs: 5 * 60_000 });
  /** An administrator has to act first; how soon it is noticed matters little. */
  readonly #bannedRetries = new Backoff({ baseMs: 60_000, capMs: 5 * 60_000 });
  #refusal: AppError | undefined;
  #bannedId: SpiffeId | undefined;
  #attestedAtMs: number | undefined;
  #delayMs = 0;
  /** The server has said something since the delay was last taken: that decides, not the failure it came with. */
  #isNews = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Set while the server does not accept the identity any more, though it has not expired. */
  get refusal(): AppError | undefined {
    return this.#refusal;
  }

  /** Who was banned, until the server lets this agent attest again. */
  get bannedId(): SpiffeId | undefined {
    return this.#bannedId;
  }

  /** Notes a refusal; false when one is known already. The first attempt comes at once, unless the last one is recent. */
  refused(refusal: AppError): boolean {
    if (this.#refusal !== undefined) return false;
    this.#refusal = refusal;
    this.#isNews = true;
    const ageMs = this.#clock.monotonic() - (this.#attestedAtMs ?? Number.NEGATIVE_INFINITY);
    if (ageMs >= quickMs) this.#refusals.reset();
    else this.#delayMs = this.#refusals.nextMs();
    return true;
  }

  /** The server has accepted the identity since: its clock may have been ahead for a while. */
  accepted(): void {
    this.#refusal = undefined;
  }

  banned(id: SpiffeId): void {
    this.#bannedId = id;
    this.#refusal = undefined;
    this.#isNews = true;
    this.#delayMs = this.#bannedRetries.nextMs();
  }

  /** An attempt to attest or renew has failed. */
  failed(error: unknown): void {
    if (this.#isNews) return;
    const isBanned = this.#bannedId !== undefined || reactionTo(error) === 'drop';
    this.#delayMs = (isBanned ? this.#bannedRetries : this.#retries).nextMs(error);
  }

  /** What is left to wait before the next attempt; the caller waits for it. */
  takeDelayMs(): number {
    const delayMs = this.#delayMs;
    this.#delayMs = 0;
    this.#isNews = false;
    return delayMs;
  }

  /** An attestation or renewal has succeeded. */
  succeeded(what: 'attested' | 'renewed'): void {
    this.#retries.reset();
    if (what === 'renewed') return;
    this.#bannedRetries.reset();
    this.#refusal = undefined;
    this.#bannedId = undefined;
    this.#attestedAtMs = this.#clock.monotonic();
  }
}
