import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { Kysely, type Transaction } from 'kysely';
import { AppError, type ErrorCode } from '../../runtime/error.ts';
import { nodeSqliteDialect } from './dialect-sqlite.ts';
import type { Schema } from './schema.ts';

/**
 * One SQLite database. The stores reach it only through `read` and `transaction`, so that every error leaves as an
 * AppError. Both take turns on one connection: a read never sees half of a transaction.
 */
export class SqlDatabase {
  readonly path: string;
  readonly #kysely: Kysely<Schema>;

  private constructor(path: string, kysely: Kysely<Schema>) {
    this.path = path;
    this.#kysely = kysely;
  }

  /** Opens the file, making it with mode 0600; refuses one that others may read. */
  static async open(path: string, { busyTimeoutMs = 2000 } = {}): Promise<SqlDatabase> {
    await makePrivate(path);
    try {
      // Waiting for another process blocks the event loop, so it ends soon: only a backup should ever hold the lock.
      const connection = new DatabaseSync(path, {
        timeout: busyTimeoutMs,
        enableForeignKeyConstraints: true,
      });
      try {
        // FULL: what was acknowledged is on the disk, also after a power failure.
        connection.exec('pragma journal_mode = wal; pragma synchronous = full;');
      } catch (error) {
        connection.close();
        throw error;
      }
      return new SqlDatabase(path, new Kysely<Schema>({ dialect: nodeSqliteDialect(connection) }));
    } catch (error) {
      throw asAppError(error, path, 'open it');
    }
  }

  /** Runs `work` outside a transaction; `what` is for the error text: "list entries". */
  async read<T>(what: string, work: (db: Kysely<Schema>) => Promise<T>): Promise<T> {
    try {
      return await work(this.#kysely);
    } catch (error) {
      throw asAppError(error, this.path, what);
    }
  }

  /** Runs `work` in one transaction that holds the write lock from its start; durable once it resolves. */
  async transaction<T>(what: string, work: (tx: Transaction<Schema>) => Promise<T>): Promise<T> {
    try {
      return await this.#kysely.transaction().execute(work);
    } catch (error) {
      throw asAppError(error, this.path, what);
    }
  }

  async close(): Promise<void> {
    await this.#kysely.destroy();
  }
}

/** SQLite gives its journal files the mode of the database, so the database is made before SQLite sees it. */
async function makePrivate(path: string): Promise<void> {
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
  try {
    const file = await open(path, flags, 0o600);
    try {
      if (((await file.stat()).mode & 0o077) !== 0) {
        throw new AppError('failed-precondition', `"${path}" can be read by others; run: chmod 600 ${path}`);
      }
    } finally {
      await file.close();
    }
    const directory = await open(dirname(path), constants.O_RDONLY);
    await directory.sync().finally(() => directory.close());
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('failed-precondition', `cannot open the database "${path}"`, { cause: error });
  }
}

/** Primary result codes of SQLite (https://sqlite.org/rescode.html) that have an advice of their own. */
const advice: Readonly<Record<number, { readonly code: ErrorCode; readonly text: string }>> = {
  5: { code: 'unavailable', text: 'another process does not let go of its lock' },
  8: { code: 'failed-precondition', text: 'it cannot be written; check its mode and the file system' },
  10: { code: 'unavailable', text: 'reading or writing the disk failed' },
  11: { code: 'internal', text: 'the file is damaged; restore a backup' },
  13: { code: 'resource-exhausted', text: 'the disk is full' },
  14: { code: 'failed-precondition', text: 'the file cannot be opened' },
  26: { code: 'failed-precondition', text: 'the file is not a SQLite database' },
};

function asAppError(error: unknown, path: string, what: string): unknown {
  if (error instanceof AppError || !(error instanceof Error)) return error;
  const { errcode } = error as { errcode?: unknown };
  const known = typeof errcode === 'number' ? advice[errcode & 0xff] : undefined;
  return new AppError(
    known?.code ?? 'internal',
    `database "${basename(path)}": cannot ${what}${known === undefined ? '' : `: ${known.text}`}`,
    { cause: error },
  );
}
