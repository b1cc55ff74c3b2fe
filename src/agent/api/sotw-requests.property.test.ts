import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type SdsSend, SdsSession, type SdsWorld } from './sds-session.ts';
import { type SotwRequest, SotwRequests } from './sotw-requests.ts';

const names = ['a', 'b', 'c', 'd'];
const limits = { maxNames: 16, maxNameBytes: 16, maxBytesOfNames: 64 };

/** Some versions are bad: the client refuses them each time. */
function isBad(name: string, version: string | undefined): boolean {
  return (name.charCodeAt(0) + Number(version)) % 3 === 0;
}

/**
 * A client, a session and the two directions between them, with every rule of the stream asserted at each step.
 * Messages wait in `toServer` and `toClient`, so that requests, responses and changes overlap in any way.
 */
class Simulation {
  readonly world = new Map<string, string>();
  readonly session: SdsSession;
  readonly #requests: SotwRequests;
  readonly #toServer: SotwRequest[] = [];
  readonly #toClient: SdsSend[] = [];
  #wanted: readonly string[] = [];
  #clientNonce: string;
  #clientHasNamed = false;
  readonly #held = new Map<string, string | undefined>();

  // What the server may know: the list of the newest request it has read.
  #read: readonly string[] | undefined;
  #hasNamed = false;
  #lastSentNonce = 0;
  readonly #answered = new Set<string>();
  /** Nonces that were answered once more. */
  readonly #repeated = new Set<string>();
  readonly #sent = new Map<string, string | undefined>();
  readonly #refusedAtServer = new Set<string>();
  readonly #sentByNonce = new Map<string, SdsSend>();

  /** `oldNonce` stands for what a client carries over from an earlier stream into its first request. */
  constructor(oldNonce: string) {
    this.#clientNonce = oldNonce;
    const world: SdsWorld = {
      lookup: (name) => {
        const version = this.world.get(name);
        // As the books of the proxy do.
        const isRefused = this.#refusedAtServer.has(`${name} ${version}`);
        return version === undefined || isRefused ? undefined : { version };
      },
      isAbsent: () => false,
      canBeServed: (name) => names.includes(name),
      allNames: () => [...this.world.keys()],
    };
    this.session = new SdsSession(world, { limits });
    this.#requests = new SotwRequests(this.session);
  }

  isWildcard(): boolean {
    return this.#read !== undefined && !this.#hasNamed;
  }

  change(name: string, version: string | undefined): void {
    if (version === undefined) this.world.delete(name);
    else this.world.set(name, version);
    this.session.worldChanged();
  }

  subscribe(list: readonly string[]): void {
    this.#wanted = list;
    this.#clientHasNamed ||= list.length > 0;
    if (this.#clientHasNamed) {
      for (const name of this.#held.keys()) if (!list.includes(name)) this.#held.delete(name);
    }
    this.#toServer.push({ names: list, nonce: this.#clientNonce, error: undefined });
    if (this.#sentByNonce.size === 0) this.#clientNonce = '';
  }

  /** Sends the newest list with a nonce of long ago, some times over. */
  repeat(nonce: number, times: number): void {
    const request = { names: this.#wanted, nonce: String(nonce), error: undefined };
    if (this.#answered.has(request.nonce)) this.#toServer.push(...Array<SotwRequest>(times).fill(request));
  }

  sendStale(nonce: string): void {
    if (this.#read !== undefined) this.#toServer.push({ names: ['x'], nonce, error: undefined });
  }

  /** The client reads one response, keeps or refuses it, and answers. */
  readResponse(): boolean {
    const response = this.#toClient.shift();
    if (response === undefined) return false;
    this.#clientNonce = response.nonce;
    const bad = isBad(response.name, response.version);
    if (!bad) this.#held.set(response.name, response.version);
    this.#toServer.push({ names: this.#wanted, nonce: response.nonce, error: bad ? 'bad' : undefined });
    return true;
  }

  /** The server reads one request. */
  readRequest(): boolean {
    const request = this.#toServer.shift();
    if (request === undefined) return false;
    const isFirst = this.#read === undefined;
    const isStale = !isFirst && request.nonce !== '' && !this.#sentByNonce.has(request.nonce);
    if (!isStale) this.#expectSubscription(request, isFirst);
    const { answer } = this.#requests.receive(request);
    const known = isFirst || isStale ? undefined : this.#sentByNonce.get(request.nonce);
    if (known === undefined || this.#answered.has(request.nonce)) expect(answer).toBeUndefined();
    else {
      expect(answer).toMatchObject({ name: known.name, version: known.version });
      expect(answer?.kind).toBe(request.error === undefined ? 'ack' : 'nack');
      this.#answered.add(request.nonce);
      if (request.error !== undefined) this.#refusedAtServer.add(`${known.name} ${known.version}`);
    }
    return true;
  }

  /** The transport takes one response. */
  write(): boolean {
    const peeked = this.session.peek();
    const send = this.session.next();
    expect(send === undefined ? undefined : { name: send.name, version: send.version }).toEqual(peeked);
    if (send === undefined) return false;
    expect(send.version, 'exists and is the newest').toBe(this.world.get(send.name));
    expect(this.isWildcard() || this.#read?.includes(send.name), `${send.name} is asked for`).toBe(true);
    expect(this.#refusedAtServer.has(`${send.name} ${send.version}`), 'refused before').toBe(false);
    expect(this.#sent.get(send.name), 'sent before').not.toBe(send.version);
    expect(Number(send.nonce)).toBe(this.#lastSentNonce + 1);
    this.#lastSentNonce += 1;
    this.#sent.set(send.name, send.version);
    this.#sentByNonce.set(send.nonce, send);
    this.#toClient.push(send);
    return true;
  }

  /** Lets everything settle, then looks at what the client has. */
  finish(): void {
    let steps = 0;
    for (let moved = true; moved; ) {
      moved = [() => this.write(), () => this.readResponse(), () => this.readRequest()].some((step) =>
        step(),
      );
      steps += 1;
      expect(steps, 'settles').toBeLessThan(2_000);
    }
    if (this.#read === undefined) return;
    for (const name of this.isWildcard() ? this.world.keys() : this.#wanted) {
      const version = this.world.get(name);
      if (version !== undefined && !isBad(name, version)) expect(this.#held.get(name), name).toBe(version);
    }
    expect(this.session.peek()).toBeUndefined();
    expect(this.session.held().length).toBeLessThanOrEqual(names.length);
    expect(this.session.unanswered).toBe(0);
  }

  #expectSubscription(request: SotwRequest, isFirst: boolean): void {
    const before = this.#read;
    const wasWildcard = this.isWildcard() || isFirst;
    if (request.names.length > 0) this.#hasNamed = true;
    this.#read = request.names;
    if (wasWildcard && this.#hasNamed) this.#sent.clear();
    // Names dropped are forgotten; a repeated nonce with the same names asks for all of them again.
    if (this.#hasNamed) {
      for (const name of this.#sent.keys()) if (!request.names.includes(name)) this.#sent.delete(name);
    }
    const isSame =
      before?.length === request.names.length && request.names.every((name) => before.includes(name));
    const isRepeated = this.#answered.has(request.nonce) && !this.#repeated.has(request.nonce);
    if (!isSame || !isRepeated || request.error !== undefined) return;
    this.#repeated.add(request.nonce);
    this.#sent.clear();
  }
}

const command = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .tuple(fc.constantFrom(...names), fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined }))
      .map(
        ([name, version]) =>
          (simulation: Simulation) =>
            simulation.change(name, version?.toString()),
      ),
  },
  {
    weight: 2,
    arbitrary: fc.subarray(names).map((list) => (simulation: Simulation) => simulation.subscribe(list)),
  },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom('999999', 'old', '0')
      .map((nonce) => (simulation: Simulation) => simulation.sendStale(nonce)),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 4 })).map(
      ([nonce, times]) =>
        (simulation: Simulation) =>
          simulation.repeat(nonce, times),
    ),
  },
  { weight: 4, arbitrary: fc.constant((simulation: Simulation) => simulation.write()) },
  { weight: 4, arbitrary: fc.constant((simulation: Simulation) => simulation.readResponse()) },
  { weight: 4, arbitrary: fc.constant((simulation: Simulation) => simulation.readRequest()) },
);

test('any interleaving ends with the client on the newest version of all it asks for, and breaks no rule on the way', () => {
  fc.assert(
    fc.property(
      fc.constantFrom('', '17'),
      fc.array(command, { maxLength: 80, size: 'max' }),
      (oldNonce, commands) => {
        const simulation = new Simulation(oldNonce);
        for (const run of commands) run(simulation);
        simulation.finish();
      },
    ),
    { numRuns: 1_500 },
  );
});
