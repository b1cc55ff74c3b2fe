import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type DeltaRequest, DeltaRequests } from './delta-requests.ts';
import { type SdsSend, SdsSession } from './sds-session.ts';

const names = ['a', 'b', 'c', 'soon', 'never'];
const limits = { maxNames: 16, maxNameBytes: 16, maxBytesOfNames: 64 };

/** A client, a session and the two directions between them, with every rule of the stream asserted at each step. */
class Simulation {
  readonly #world = new Map<string, string>();
  readonly #session: SdsSession;
  readonly #requests: DeltaRequests;
  readonly #toServer: DeltaRequest[] = [];
  readonly #toClient: SdsSend[] = [];
  readonly #wanted = new Set<string>();
  /** What the client was told last: a version, or that there is none. */
  readonly #told = new Map<string, string | undefined>();
  /** What the server has read: name → whether it has answered since it was asked. */
  readonly #asked = new Map<string, boolean>();
  #hasAsked = false;

  constructor() {
    const world = {
      lookup: (name: string) => {
        const version = this.#world.get(name);
        return version === undefined ? undefined : { version };
      },
      isAbsent: (name: string) => this.#isAbsent(name),
      canBeServed: (name: string) => name !== 'never',
      allNames: () => [...this.#world.keys()],
    };
    this.#session = new SdsSession(world, { limits, tellsAbsence: true });
    this.#requests = new DeltaRequests(this.#session);
  }

  change(name: string, version: string | undefined): void {
    if (version === undefined || name === 'never') this.#world.delete(name);
    else this.#world.set(name, version);
    this.#session.worldChanged();
  }

  ask(subscribe: readonly string[], unsubscribe: readonly string[], nonce = ''): void {
    // A first request that names nothing would mean everything, which has tests of its own.
    if (!this.#hasAsked && subscribe.length === 0) return;
    this.#hasAsked = true;
    for (const name of unsubscribe) {
      this.#wanted.delete(name);
      this.#told.delete(name);
    }
    for (const name of subscribe) this.#wanted.add(name);
    this.#toServer.push({ subscribe, unsubscribe, nonce, error: undefined });
  }

  /** The client reads one response, and answers. */
  readResponse(error: string | undefined): boolean {
    const response = this.#toClient.shift();
    if (response === undefined) return false;
    if (this.#wanted.has(response.name)) this.#told.set(response.name, response.version);
    this.#toServer.push({ subscribe: [], unsubscribe: [], nonce: response.nonce, error });
    return true;
  }

  /** The server reads one request. */
  readRequest(): boolean {
    const request = this.#toServer.shift();
    if (request === undefined) return false;
    for (const name of request.unsubscribe) this.#asked.delete(name);
    for (const name of request.subscribe) this.#asked.set(name, false);
    this.#requests.receive(request);
    return true;
  }

  /** The transport takes one response. */
  write(): boolean {
    const send = this.#session.next();
    if (send === undefined) return false;
    const { name, version } = send;
    expect(this.#asked.has(name), `${name} is asked for`).toBe(true);
    if (version === undefined) expect(this.#isAbsent(name), `${name} is absent for certain`).toBe(true);
    else expect(version, 'exists and is the newest').toBe(this.#world.get(name));
    this.#asked.set(name, true);
    this.#toClient.push(send);
    return true;
  }

  /** Lets everything settle, then looks at what the client has been told. */
  finish(): void {
    let steps = 0;
    const moves = [() => this.write(), () => this.readResponse(undefined), () => this.readRequest()];
    while (moves.some((move) => move())) {
      steps += 1;
      expect(steps, 'settles').toBeLessThan(2_000);
    }
    for (const name of this.#wanted) {
      const version = this.#world.get(name);
      if (version === undefined && !this.#isAbsent(name)) continue;
      expect(this.#asked.get(name), `${name} is answered`).toBe(true);
      expect(this.#told.has(name), name).toBe(true);
      expect(this.#told.get(name), name).toBe(version);
    }
    expect([this.#session.peek(), this.#session.unanswered]).toEqual([undefined, 0]);
    expect(this.#session.names().length).toBeLessThan(names.length);
  }

  #isAbsent(name: string): boolean {
    return !this.#world.has(name) && name !== 'soon';
  }
}

const someNames = fc.subarray(names);
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
    weight: 3,
    arbitrary: fc.tuple(someNames, someNames, fc.constantFrom('', '1', '3', 'old')).map(
      ([subscribe, unsubscribe, nonce]) =>
        (simulation: Simulation) =>
          simulation.ask(
            subscribe,
            unsubscribe.filter((name) => !subscribe.includes(name)),
            nonce,
          ),
    ),
  },
  { weight: 4, arbitrary: fc.constant((simulation: Simulation) => simulation.write()) },
  {
    weight: 4,
    arbitrary: fc
      .constantFrom(undefined, 'bad')
      .map((error) => (simulation: Simulation) => simulation.readResponse(error)),
  },
  { weight: 4, arbitrary: fc.constant((simulation: Simulation) => simulation.readRequest()) },
);

test('any interleaving ends with the client told of all it asks for, and breaks no rule on the way', () => {
  fc.assert(
    fc.property(fc.array(command, { maxLength: 80, size: 'max' }), (commands) => {
      const simulation = new Simulation();
      for (const run of commands) run(simulation);
      simulation.finish();
    }),
    { numRuns: 1_500 },
  );
});
