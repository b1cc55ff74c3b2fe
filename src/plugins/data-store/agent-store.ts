import type { Kysely } from 'kysely';
import type { AgentRecord, AgentStore } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { flagOf, parseCount, parseFlag, parseRow, parseSelectors, selectorsJson } from './row.ts';
import type { AgentRow, Schema } from './schema.ts';
import type { SqlDatabase } from './sql-database.ts';

/** Attested nodes in the table `agents`. */
export class SqlAgentStore implements AgentStore {
  readonly #database: SqlDatabase;

  constructor(deps: { readonly database: SqlDatabase }) {
    this.#database = deps.database;
  }

  recordAttestation(agent: Omit<AgentRecord, 'banned' | 'newSerial' | 'newExpiresAt'>): Promise<AgentRecord> {
    return this.#database.transaction('record the attestation', async (tx) => {
      const { id } = agent;
      if ((await findAgent(tx, id))?.banned === true) {
        throw new AppError('permission-denied', `agent "${id}" is banned`, { reason: 'AGENT_BANNED' });
      }
      const row: AgentRow = {
        id: id.toString(),
        attestation_type: agent.attestationType,
        serial: checkSerial(agent.serial),
        new_serial: '',
        expires_at: agent.expiresAt,
        new_expires_at: 0,
        selectors: selectorsJson(agent.selectors),
        can_reattest: flagOf(agent.canReattest),
      };
      const { id: _, ...values } = row;
      await tx
        .insertInto('agents')
        .values(row)
        .onConflict((conflict) => conflict.column('id').doUpdateSet(values))
        .execute();
      await tx.updateTable('join_tokens').set({ attested: 1 }).where('used_for', '=', row.id).execute();
      return parseAgentRow(row);
    });
  }

  recordRenewal(
    id: SpiffeId,
    renewed: { readonly serial: string; readonly expiresAt: number },
  ): Promise<AgentRecord> {
    return this.#change(id, 'record the renewal', () => ({
      new_serial: checkSerial(renewed.serial),
      new_expires_at: renewed.expiresAt,
    }));
  }

  promoteSerial(id: SpiffeId, serial: string): Promise<AgentRecord> {
    return this.#change(id, 'promote the serial', (agent) => {
      if (agent.newSerial !== checkSerial(serial)) return {};
      return { serial, expires_at: agent.newExpiresAt, new_serial: '', new_expires_at: 0 };
    });
  }

  find(id: SpiffeId): Promise<AgentRecord | undefined> {
    return this.#database.read('read the agent', (db) => findAgent(db, id));
  }

  list(): Promise<readonly AgentRecord[]> {
    return this.#database.read('list agents', async (db) =>
      (await db.selectFrom('agents').selectAll().orderBy('id').execute()).map(parseAgentRow),
    );
  }

  /** Throws `not-found` for an agent that is not known or banned. */
  #change(
    id: SpiffeId,
    what: string,
    change: (agent: AgentRecord) => Partial<AgentRow>,
  ): Promise<AgentRecord> {
    return this.#database.transaction(what, async (tx) => {
      const agent = await findAgent(tx, id);
      if (agent === undefined || agent.banned) {
        throw new AppError('not-found', `agent "${id}" is ${agent === undefined ? 'not known' : 'banned'}`);
      }
      const values = change(agent);
      if (Object.keys(values).length === 0) return agent;
      const row = await tx
        .updateTable('agents')
        .set(values)
        .where('id', '=', id.toString())
        .returningAll()
        .executeTakeFirstOrThrow();
      return parseAgentRow(row);
    });
  }
}

/** Reads one agent, inside or outside a transaction. */
export async function findAgent(db: Kysely<Schema>, id: SpiffeId): Promise<AgentRecord | undefined> {
  const row = await agentQuery(db, id).executeTakeFirst();
  return row === undefined ? undefined : parseAgentRow(row);
}

/** The statement behind `findAgent`, apart so that a test can ask SQLite for its plan. */
export function agentQuery(db: Kysely<Schema>, id: SpiffeId) {
  return db.selectFrom('agents').selectAll().where('id', '=', id.toString());
}

/** An empty serial would ban the agent, and "07" would never equal the serial of a certificate. */
function checkSerial(serial: string): string {
  if (/^(0|[1-9][0-9]*)$/.test(serial)) return serial;
  throw new AppError('invalid-argument', `certificate serial "${serial}" is not a decimal number`);
}

function parseAgentRow(row: AgentRow): AgentRecord {
  return parseRow('agents', row.id, () => ({
    id: SpiffeId.parse(row.id),
    attestationType: row.attestation_type,
    serial: row.serial === '' ? '' : checkSerial(row.serial),
    newSerial: row.new_serial === '' ? '' : checkSerial(row.new_serial),
    expiresAt: parseCount('expires_at', row.expires_at),
    newExpiresAt: parseCount('new_expires_at', row.new_expires_at),
    selectors: parseSelectors('selectors', row.selectors),
    canReattest: parseFlag('can_reattest', row.can_reattest),
    banned: row.serial === '',
  }));
}
