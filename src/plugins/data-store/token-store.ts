import type { Kysely, Transaction } from 'kysely';
import type { JoinTokenRecord, JoinTokenStore, Redemption } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { findAgent } from './agent-store.ts';
import { insertEntry } from './entry-store.ts';
import { parseRow } from './row.ts';
import type { JoinTokenRow, Schema } from './schema.ts';
import type { SqlDatabase } from './sql-database.ts';

type RedeemRequest = Parameters<JoinTokenStore['redeem']>[0];

/** Join tokens, by their hash, in the table `join_tokens`. */
export class SqlJoinTokenStore implements JoinTokenStore {
  readonly #database: SqlDatabase;

  constructor(deps: { readonly database: SqlDatabase }) {
    this.#database = deps.database;
  }

  async create(token: JoinTokenRecord): Promise<void> {
    if (!/^[0-9a-f]{64}$/.test(token.hash)) {
      // Also what keeps a token itself from being stored by mistake.
      throw new AppError('invalid-argument', 'a join token is stored by its SHA-256 in lower-case hex only');
    }
    await this.#database.transaction('create the join token', async (tx) => {
      if ((await joinTokenQuery(tx, token.hash).executeTakeFirst()) !== undefined) {
        throw new AppError('already-exists', `join token ${token.hash.slice(0, 8)}… already exists`);
      }
      await tx
        .insertInto('join_tokens')
        .values({
          hash: token.hash,
          expires_at: token.expiresAt,
          alias_id: token.aliasId?.toString() ?? null,
          used_at: null,
          used_by: null,
          used_for: null,
          attested: 0,
        })
        .execute();
    });
  }

  redeem(request: RedeemRequest): Promise<Redemption> {
    return this.#database.transaction('redeem the join token', async (tx) => {
      const row = await joinTokenQuery(tx, request.hash).executeTakeFirst();
      if (row === undefined) return { outcome: 'unknown' };
      if (row.used_at !== null) return { outcome: (await mayRepeat(tx, row, request)) ? 'repeated' : 'used' };
      if (row.expires_at <= request.now) return { outcome: 'expired' };
      await tx
        .updateTable('join_tokens')
        .set({ used_at: request.now, used_by: request.publicKeyHash, used_for: request.agentId.toString() })
        .where('hash', '=', request.hash)
        .execute();
      return { outcome: 'redeemed', alias: await storeAlias(tx, row, request) };
    });
  }

  prune(before: number): Promise<number> {
    return this.#database.transaction('prune join tokens', async (tx) => {
      const result = await tx
        .deleteFrom('join_tokens')
        .where((e) => e.or([e('expires_at', '<', before), e('used_at', '<', before)]))
        .executeTakeFirst();
      return Number(result.numDeletedRows);
    });
  }
}

/** The statement that looks a token up, apart so that a test can ask SQLite for its plan. */
export function joinTokenQuery(db: Kysely<Schema>, hash: string) {
  return db.selectFrom('join_tokens').selectAll().where('hash', '=', hash);
}

async function mayRepeat(tx: Kysely<Schema>, row: JoinTokenRow, request: RedeemRequest): Promise<boolean> {
  if (row.used_at === null || row.used_by !== request.publicKeyHash) return false;
  // In both directions: a clock that was set back must not make the window longer.
  if (Math.abs(request.now - row.used_at) > request.repeatSeconds) return false;
  const agent = await findAgent(tx, request.agentId);
  // Never recorded: the server went down, or could not sign, between the redemption and the record. Recorded and
  // gone: evicted or deleted since, and an administrator's word is stronger than a lost answer.
  return agent === undefined ? row.attested === 0 : !agent.banned;
}

async function storeAlias(tx: Transaction<Schema>, row: JoinTokenRow, request: RedeemRequest) {
  const { alias_id: aliasId } = row;
  if (aliasId === null) return undefined;
  const id = parseRow('join_tokens', row.hash.slice(0, 8), () => SpiffeId.parse(aliasId));
  return (await insertEntry(tx, request.aliasEntry(id), request.now)).entry;
}
