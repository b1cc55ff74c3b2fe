import { mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { RunningProcess } from '../../e2e/support/process.ts';

/** To be put into the environment of a Node process that `Inspector.attach` is to find. */
export const inspectable = { NODE_OPTIONS: '--inspect=127.0.0.1:0' };

interface Incoming {
  readonly id?: number;
  readonly method?: string;
  readonly result?: { readonly profile?: unknown };
  readonly params?: { readonly chunk?: string };
  readonly error?: { readonly message: string };
}

/** The DevTools protocol of a running Node process: CPU profiles and heap snapshots, written into one folder. */
export class Inspector {
  readonly #socket: WebSocket;
  readonly #dir: string;
  readonly #waiting = new Map<
    number,
    { resolve(result: Incoming['result']): void; reject(e: Error): void }
  >();
  #lastId = 0;
  #onChunk: (chunk: string) => void = () => undefined;

  private constructor(socket: WebSocket, dir: string) {
    this.#socket = socket;
    this.#dir = dir;
    socket.addEventListener('message', ({ data }) => this.#take(JSON.parse(String(data))));
  }

  static async attach(process: RunningProcess, dir: string): Promise<Inspector> {
    mkdirSync(dir, { recursive: true });
    const line = await process.waitForLine(/Debugger listening on ws:/);
    const socket = new WebSocket(line.slice(line.indexOf('ws:')));
    await new Promise((resolve, reject) => {
      socket.addEventListener('open', resolve);
      socket.addEventListener('error', reject);
    });
    const inspector = new Inspector(socket, dir);
    await inspector.#call('Profiler.enable');
    await inspector.#call('Profiler.setSamplingInterval', { interval: 200 });
    return inspector;
  }

  /** Records what `work` has the process do, as NAME.cpuprofile. */
  async profile<T>(name: string, work: () => Promise<T>): Promise<T> {
    await this.#call('Profiler.start');
    const result = await work();
    const stopped = await this.#call('Profiler.stop');
    writeFileSync(join(this.#dir, `${name}.cpuprofile`), JSON.stringify(stopped?.profile));
    return result;
  }

  /** Writes what is alive now as NAME.heapsnapshot. */
  async heap(name: string): Promise<void> {
    const file = openSync(join(this.#dir, `${name}.heapsnapshot`), 'w');
    this.#onChunk = (chunk) => writeSync(file, chunk);
    await this.#call('HeapProfiler.takeHeapSnapshot', { reportProgress: false });
  }

  close(): void {
    this.#socket.close();
  }

  #call(method: string, params: object = {}): Promise<Incoming['result']> {
    this.#lastId += 1;
    const id = this.#lastId;
    this.#socket.send(JSON.stringify({ id, method, params }));
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  #take({ id, method, result, params, error }: Incoming): void {
    if (method === 'HeapProfiler.addHeapSnapshotChunk') this.#onChunk(params?.chunk ?? '');
    if (id === undefined) return;
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error === undefined) waiting?.resolve(result);
    else waiting?.reject(new Error(error.message));
  }
}
