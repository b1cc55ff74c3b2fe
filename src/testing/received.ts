import type { ServiceError } from '@grpc/grpc-js';

interface Stream<T> {
  on(event: 'data', listener: (message: T) => void): unknown;
  on(event: 'error', listener: (error: ServiceError) => void): unknown;
  on(event: 'end', listener: () => void): unknown;
  cancel(): void;
}

/** The messages of a client's stream, to be taken one by one. */
export class Received<T> {
  readonly #messages: T[] = [];
  readonly #ended = Promise.withResolvers<ServiceError | undefined>();
  #wake: () => void = () => undefined;
  #isOver = false;

  constructor(stream: Stream<T>) {
    stream.on('data', (message) => {
      this.#messages.push(message);
      this.#wake();
    });
    stream.on('error', (error) => this.#end(error));
    stream.on('end', () => this.#end(undefined));
  }

  /** Resolves with the error that ended the stream, or undefined when it ended well. */
  get ended(): Promise<ServiceError | undefined> {
    return this.#ended.promise;
  }

  /** The next message; throws when the stream ends first. */
  async next(): Promise<T> {
    while (this.#messages.length === 0) {
      if (this.#isOver) throw new Error(`the stream has ended: ${(await this.ended)?.message ?? 'OK'}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#messages.shift() as T;
  }

  async take(count: number): Promise<T[]> {
    const taken: T[] = [];
    while (taken.length < count) taken.push(await this.next());
    return taken;
  }

  #end(error: ServiceError | undefined): void {
    this.#isOver = true;
    this.#ended.resolve(error);
    this.#wake();
  }
}
