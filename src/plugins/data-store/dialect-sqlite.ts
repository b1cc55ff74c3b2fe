import type { DatabaseSync, SQLInputValue } from 'node:sqlite';
import {
  CompiledQuery,
  type DatabaseConnection,
  type Driver,
  SqliteDialect,
  type SqliteDialectConfig,
  SqliteDriver,
  type SqliteStatement,
} from 'kysely';

/** More than the stores have statements; what a number of parameters makes different may come and go. */
const keptStatements = 200;

/** Lets kysely run on a database of `node:sqlite`, with transactions that are safe beside other processes. */
export function nodeSqliteDialect(database: DatabaseSync): SqliteDialect {
  const prepared = new Map<string, SqliteStatement>();
  const config: SqliteDialectConfig = {
    database: {
      close: () => database.close(),
      // SQLite needs longer to understand an insertion than to do it.
      prepare(text) {
        const known = prepared.get(text);
        if (known !== undefined) return known;
        if (prepared.size >= keptStatements) prepared.clear();
        const statement = prepare(database, text);
        prepared.set(text, statement);
        return statement;
      },
    },
  };
  return new NodeSqliteDialect(config, database);
}

function prepare(database: DatabaseSync, text: string): SqliteStatement {
  const statement = database.prepare(text);
  const values = (parameters: readonly unknown[]) => parameters as readonly SQLInputValue[];
  return {
    reader: statement.columns().length > 0,
    all: (parameters) => statement.all(...values(parameters)),
    run: (parameters) => statement.run(...values(parameters)),
    iterate: (parameters) => statement.iterate(...values(parameters)),
  };
}

class NodeSqliteDialect extends SqliteDialect {
  readonly #config: SqliteDialectConfig;
  readonly #database: DatabaseSync;

  constructor(config: SqliteDialectConfig, database: DatabaseSync) {
    super(config);
    this.#config = config;
    this.#database = database;
  }

  override createDriver(): Driver {
    return new NodeSqliteDriver(this.#config, this.#database);
  }
}

class NodeSqliteDriver extends SqliteDriver {
  readonly #database: DatabaseSync;

  constructor(config: SqliteDialectConfig, database: DatabaseSync) {
    super(config);
    this.#database = database;
  }

  // A deferred transaction that reads and then writes fails at once, without waiting, when another process wrote
  // in between; one that takes the write lock first waits for its turn.
  override async beginTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('begin immediate'));
  }

  // After a full disk SQLite has rolled back by itself; a second rollback would hide that error.
  override async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    if (this.#database.isTransaction) await super.rollbackTransaction(connection);
  }
}
