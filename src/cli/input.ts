import { readFile } from 'node:fs/promises';
import { buffer } from 'node:stream/consumers';
import { AppError } from '../runtime/error.ts';

/** What was read, and how to name where it came from: `FILE` or `standard input`. */
export interface Input {
  readonly bytes: Buffer;
  readonly name: string;
}

/** Reads FILE, or standard input for `-`. Throws `failed-precondition` that says what could not be read. */
export async function readInput(file: string, what: string): Promise<Input> {
  const name = file === '-' ? 'standard input' : file;
  try {
    return { bytes: await (file === '-' ? buffer(process.stdin) : readFile(file)), name };
  } catch (cause) {
    throw new AppError('failed-precondition', `cannot read ${what} from ${name}`, { cause });
  }
}
