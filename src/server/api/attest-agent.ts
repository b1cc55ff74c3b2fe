import type { AttestAgentRequest, AttestAgentResponse } from '../../gen/spire/api/server/agent/v1/agent.ts';
import type { CallContext } from '../../rpc/handlers.ts';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import type { AttestationSlot, AttestationSlots } from '../attestation/attestation-slots.ts';
import type { NodeAttestation } from '../attestation/node-attestation.ts';
import { svidToWire } from './messages.ts';
import { nextMessage } from './next-message.ts';

/** How long the agent may take for its first message and for each answer to a challenge, which is one signature. */
const messageTimeoutMs = 10_000;

interface Deps {
  readonly attestation: NodeAttestation;
  readonly slots: AttestationSlots;
  readonly clock: Clock;
}

/**
 * The conversation of AttestAgent: binds the attestor's questions to the stream, each `ask` one challenge out and one
 * answer in.
 */
export async function* attestAgent(
  deps: Deps,
  requests: AsyncIterable<AttestAgentRequest>,
  context: CallContext,
): AsyncGenerator<AttestAgentResponse> {
  const conversation = new Conversation(requests[Symbol.asyncIterator](), deps.clock, context.signal);
  const first = await conversation.next();
  const params = first?.$case === 'params' ? first.value : undefined;
  // In SPIRE's order and words.
  if (params === undefined) throw malformed('missing params');
  if (params.data === undefined) throw malformed('missing attestation data');
  if (params.params === undefined) throw malformed('missing X509-SVID parameters');
  if (params.params.csr.length === 0) throw malformed('missing CSR');
  if (params.data.type === '') throw malformed('missing attestation data type');
  if (params.data.payload.length === 0) throw malformed('missing attestation data payload');

  const slot = deps.slots.enter();
  try {
    const result = deps.attestation.attest(
      { type: params.data.type, payload: params.data.payload, csr: params.params.csr },
      { ask: conversation.ask, signal: context.signal },
    );
    yield* conversation.challenges(result, slot);
    const { svid, canReattest } = await result;
    slot.leave();
    yield { step: { $case: 'result', value: { svid: svidToWire(svid), reattestable: canReattest } } };
  } finally {
    slot.leave();
  }
}

/** Turns `ask` calls of an attestor into messages of the stream, one at a time. */
class Conversation {
  readonly #incoming: AsyncIterator<AttestAgentRequest>;
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  #asked:
    | { challenge: Uint8Array; answer: (bytes: Uint8Array) => void; refuse: (error: unknown) => void }
    | undefined;
  #wake: () => void = () => undefined;

  constructor(incoming: AsyncIterator<AttestAgentRequest>, clock: Clock, signal: AbortSignal) {
    this.#incoming = incoming;
    this.#clock = clock;
    this.#signal = signal;
  }

  readonly ask = (challenge: Uint8Array): Promise<Uint8Array> =>
    new Promise((answer, refuse) => {
      this.#asked = { challenge, answer, refuse };
      this.#wake();
    });

  /** The challenges to send until `done` settles, without the slot meanwhile. Its failure is left to the caller. */
  async *challenges(done: Promise<unknown>, slot: AttestationSlot): AsyncGenerator<AttestAgentResponse> {
    let isDone = false;
    const finished = done.then(
      () => undefined,
      () => undefined,
    );
    void finished.then(() => {
      isDone = true;
      this.#wake();
    });
    while (!isDone) {
      const asked = this.#asked;
      if (asked === undefined) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
          if (isDone || this.#asked !== undefined) resolve();
        });
        continue;
      }
      this.#asked = undefined;
      slot.leave();
      yield { step: { $case: 'challenge', value: Buffer.from(asked.challenge) } };
      const answer = this.#nextAnswer();
      await answer.then(slot.reenter, () => undefined);
      await answer.then(asked.answer, asked.refuse);
      // Let the attestor act on the answer before looking again.
      await Promise.resolve();
    }
  }

  /** The agent's next message; throws `deadline-exceeded` when it takes too long, or the caller has gone. */
  async next(): Promise<AttestAgentRequest['step']> {
    const wait = {
      clock: this.#clock,
      signal: this.#signal,
      timeoutMs: messageTimeoutMs,
      what: 'attestation message',
    };
    return (await nextMessage(this.#incoming, wait))?.step;
  }

  async #nextAnswer(): Promise<Uint8Array> {
    const step = await this.next();
    if (step?.$case === 'challengeResponse') return step.value;
    throw new AppError('invalid-argument', 'expected a challenge response');
  }
}

function malformed(why: string): AppError {
  return new AppError('invalid-argument', `malformed param: ${why}`);
}
