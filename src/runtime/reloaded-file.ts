import { constants } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { AppError, errorText } from './error.ts';

type Outcome<T> = { readonly value: T } | { readonly error: AppError };

/** More than any parser here takes. */
const maxBytes = 8 * 1024 * 1024;

/**
 * A file that administrators replace while we run: read when its value is asked for and it is another than before,
 * at the price of one `stat` when it is not. Every failure is a `failed-precondition` that names setting and file.
 */
export class ReloadedFile<T> {
  readonly #setting: string;
  readonly #path: string;
  readonly #parse: (bytes: Buffer) => T;
  #version: string | undefined;
  #outcome: Outcome<T> | undefined;
  #reading: Promise<Outcome<T>> | undefined;

  /** `setting` starts errors, such as `nodeAttestors.x509pop.caFile`; `parse` throws AppError. */
  constructor(setting: string, path: string, parse: (bytes: Buffer) => T) {
    this.#setting = setting;
    this.#path = path;
    this.#parse = parse;
  }

  /** What the file holds now, parsed; throws the same error object until the file changes. */
  async read(): Promise<T> {
    this.#reading ??= this.#refresh().finally(() => {
      this.#reading = undefined;
    });
    const outcome = await this.#reading;
    if ('error' in outcome) throw outcome.error;
    return outcome.value;
  }

  async #refresh(): Promise<Outcome<T>> {
    const version = await versionOf(() => stat(this.#path, { bigint: true }));
    if (this.#outcome !== undefined && version === this.#version) return this.#outcome;
    try {
      this.#outcome = { value: this.#parse(await this.#bytes()) };
    } catch (error) {
      this.#version = version;
      const message = `${this.#setting}: cannot use "${this.#path}": ${errorText(error)}`;
      this.#outcome = { error: new AppError('failed-precondition', message) };
    }
    return this.#outcome;
  }

  async #bytes(): Promise<Buffer> {
    // Without O_NONBLOCK, opening a FIFO put in place of the file would hang for ever.
    const file = await open(this.#path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      // Before the content: a change in between is then seen next time.
      this.#version = await versionOf(() => file.stat({ bigint: true }));
      await requireReadable(file);
      return await file.readFile();
    } finally {
      await file.close();
    }
  }
}

/** Changes with the file's content: another inode when it was replaced, else another time or size. */
async function versionOf(
  look: () => Promise<{ dev: bigint; ino: bigint; size: bigint; mtimeNs: bigint; ctimeNs: bigint }>,
): Promise<string> {
  const found = await look().catch(() => undefined);
  if (found === undefined) return 'missing';
  return [found.dev, found.ino, found.size, found.mtimeNs, found.ctimeNs].join(' ');
}

async function requireReadable(file: FileHandle): Promise<void> {
  const found = await file.stat();
  if (!found.isFile()) throw new AppError('failed-precondition', 'it must be a regular file');
  if (found.size <= maxBytes) return;
  throw new AppError('failed-precondition', `it has ${found.size} bytes; at most ${maxBytes} are read`);
}
