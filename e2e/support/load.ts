import { get, type IncomingMessage } from 'node:http';
import { eventually, type Patience } from './eventually.ts';

/** A request that did not end with 200 in time. */
export interface Failure {
  readonly at: string;
  readonly reason: string;
}

/** Requests at a steady rate, each on a new connection, whether or not earlier ones have been answered. */
export class Load {
  readonly #url: string;
  readonly #timer: NodeJS.Timeout;
  readonly #open = new Set<Promise<void>>();
  readonly #failures: Failure[] = [];
  #succeeded = 0;

  private constructor(url: string, perSecond: number) {
    this.#url = url;
    this.#timer = setInterval(() => this.#send(), 1_000 / perSecond);
  }

  static start({ url, perSecond }: { url: string; perSecond: number }): Load {
    return new Load(url, perSecond);
  }

  get succeeded(): number {
    return this.#succeeded;
  }

  get failures(): readonly Failure[] {
    return this.#failures;
  }

  /** Waits until `count` more requests have succeeded. */
  async waitForMore(count: number, patience?: Patience): Promise<void> {
    const goal = this.#succeeded + count;
    await eventually(`${count} more successful requests`, () => this.#succeeded >= goal, patience);
  }

  /** Sends no more and waits for the answers to those on their way. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#open);
  }

  #send(): void {
    const sent = fetchOnce(this.#url)
      .then(({ status, body }) => {
        if (status === 200) this.#succeeded += 1;
        else this.#fail(`${status} ${body}`);
      })
      .catch((error: Error) => this.#fail(error.message))
      .finally(() => this.#open.delete(sent));
    this.#open.add(sent);
  }

  #fail(reason: string): void {
    this.#failures.push({ at: new Date().toISOString(), reason });
  }
}

/** One GET on a connection of its own, at most 5 s. */
export async function fetchOnce(url: string): Promise<{ readonly status: number; readonly body: string }> {
  const response = await open(url, { timeout: 5_000 });
  response.setEncoding('utf8');
  let body = '';
  for await (const chunk of response) body += chunk;
  return { status: response.statusCode ?? 0, body };
}

/** A response that goes on for as long as the connection holds: `/stream` of the application. */
export class LongLivedConnection {
  readonly #response: IncomingMessage;
  #received = 0;
  #end: string | undefined;

  private constructor(response: IncomingMessage) {
    this.#response = response;
    response.on('data', () => {
      this.#received += 1;
    });
    response.on('error', (error) => {
      this.#end ??= error.message;
    });
    response.on('close', () => {
      this.#end ??= 'closed';
    });
  }

  static async open(url: string): Promise<LongLivedConnection> {
    const response = await open(url, {});
    if (response.statusCode !== 200) throw new Error(`${url}: ${response.statusCode}`);
    return new LongLivedConnection(response);
  }

  /** Pieces of the answer so far. */
  get received(): number {
    return this.#received;
  }

  /** Why it ended; undefined while it holds. */
  get end(): string | undefined {
    return this.#end;
  }

  close(): void {
    this.#response.destroy();
  }
}

async function open(url: string, options: { timeout?: number }): Promise<IncomingMessage> {
  return await new Promise((resolve, reject) => {
    const call = get(url, { agent: false, ...options }, resolve);
    call.on('timeout', () => call.destroy(new Error(`no answer within ${options.timeout} ms`)));
    call.on('error', reject);
  });
}
