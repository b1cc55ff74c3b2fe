import { type Kysely, sql } from 'kysely';
import type { AgentFilter, AgentRecord, AgentStore, AttestedAgent } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import { selectorText, setMatcher } from '../../spiffe/selector.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { flagOf, parseCount, parseFlag, parseRow, parseSelectors, selectorsJson } from './row.ts';
import type { AgentRow, Schema } from './schema.ts';
import type { SqlDatabase } from './sql-database.ts';

type AgentQuery = NonNullable<Parameters<AgentStore['list']>[0]>;

/** Rows that are read in one go while looking for selectors: between two of them others have their turn. */
const scanRows = 500;

/** Attested nodes in the table `agents`. */
export class SqlAgentStore implements AgentStore {
  readonly #database: SqlDatabase;

  constructor(deps: { readonly database: SqlDatabase }) {
    this.#database = deps.database;
  }

  recordAttestation(agent: AttestedAgent): Promise<AgentRecord> {
    return this.#database.transaction('record the attestation', async (tx) => {
      const known = await findAgent(tx, agent.id);
      if (known?.banned === true) throw refusal(agent.id, 'AGENT_BANNED');
      if (known === undefined) await refuseSpentToken(tx, agent.id);
      const row = rowOf(agent);
      const stored = await tx
        .insertInto('agents')
        .values({ ...row, agent_version: '' })
        .onConflict((conflict) => conflict.column('id').doUpdateSet(row))
        .returningAll()
        .executeTakeFirstOrThrow();
      await tx.updateTable('join_tokens').set({ attested: 1 }).where('used_for', '=', row.id).execute();
      return parseAgentRow(stored);
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

  recordVersion(id: SpiffeId, agentVersion: string): Promise<AgentRecord> {
    return this.#change(id, 'record the version of the agent', (agent) =>
      agent.agentVersion === agentVersion ? {} : { agent_version: agentVersion },
    );
  }

  ban(id: SpiffeId): Promise<AgentRecord> {
    return this.#database.transaction('ban the agent', async (tx) => {
      const row = await tx
        .updateTable('agents')
        .set({ serial: '', new_serial: '', new_expires_at: 0 })
        .where('id', '=', id.toString())
        .returningAll()
        .executeTakeFirst();
      if (row === undefined) throw new AppError('not-found', 'agent not found');
      return parseAgentRow(row);
    });
  }

  delete(id: SpiffeId): Promise<AgentRecord | undefined> {
    return this.#database.transaction('delete the agent', async (tx) => {
      const found = await findAgent(tx, id);
      await tx.deleteFrom('agents').where('id', '=', id.toString()).execute();
      return found;
    });
  }

  find(id: SpiffeId): Promise<AgentRecord | undefined> {
    return this.#database.read('read the agent', (db) => findAgent(db, id));
  }

  async list(query: AgentQuery = {}): Promise<readonly AgentRecord[]> {
    const isWanted = selectorTest(query);
    if (isWanted === undefined) return this.#rows(query);
    const { limit = Number.POSITIVE_INFINITY } = query;
    const found: AgentRecord[] = [];
    let { afterId = '' } = query;
    for (let isLast = false; !isLast && found.length < limit; ) {
      const page = await this.#rows({ ...query, afterId, limit: scanRows });
      found.push(...page.filter(isWanted).slice(0, limit - found.length));
      afterId = page.at(-1)?.id.toString() ?? '';
      isLast = page.length < scanRows;
    }
    return found;
  }

  async count(filter: AgentFilter = {}): Promise<number> {
    if (filter.selectors !== undefined) return (await this.list(filter)).length;
    return this.#database.read('count agents', async (db) => {
      const row = await agentCountQuery(db, filter).executeTakeFirst();
      return Number(row?.count ?? 0);
    });
  }

  #rows(query: AgentQuery): Promise<readonly AgentRecord[]> {
    return this.#database.read('list agents', async (db) =>
      (await agentListQuery(db, query).execute()).map(parseAgentRow),
    );
  }

  /** Throws `permission-denied` with SPIRE's reason for an agent that is not known or banned. */
  #change(
    id: SpiffeId,
    what: string,
    change: (agent: AgentRecord) => Partial<AgentRow>,
  ): Promise<AgentRecord> {
    return this.#database.transaction(what, async (tx) => {
      const agent = await findAgent(tx, id);
      if (agent === undefined) throw refusal(id, 'AGENT_NOT_ATTESTED');
      if (agent.banned) throw refusal(id, 'AGENT_BANNED');
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

/** The statement behind lists, but for selectors, which SQL cannot compare. */
export function agentListQuery(db: Kysely<Schema>, query: AgentQuery) {
  const { afterId, limit } = query;
  let statement = filtered(db, query).selectAll().orderBy('id');
  if (afterId !== undefined) statement = statement.where('id', '>', afterId);
  return limit === undefined ? statement : statement.limit(limit);
}

/** The statement behind `count`, without selectors. */
export function agentCountQuery(db: Kysely<Schema>, filter: AgentFilter) {
  return filtered(db, filter).select((e) => e.fn.countAll().as('count'));
}

function filtered(db: Kysely<Schema>, filter: AgentFilter) {
  const { attestationType, banned, canReattest, expiresBefore } = filter;
  let query = db.selectFrom('agents');
  if (attestationType !== undefined) query = query.where('attestation_type', '=', attestationType);
  // A literal, or SQLite could not know that the index of banned agents answers it.
  if (banned !== undefined) query = query.where('serial', banned ? '=' : '<>', sql.lit(''));
  if (canReattest !== undefined) query = query.where('can_reattest', '=', flagOf(canReattest));
  if (expiresBefore !== undefined) query = query.where('expires_at', '<', expiresBefore);
  return query;
}

function selectorTest({ selectors }: AgentFilter): ((agent: AgentRecord) => boolean) | undefined {
  if (selectors === undefined) return undefined;
  const matches = setMatcher(selectors.wanted.map(selectorText), selectors.match);
  return (agent) => matches(agent.selectors.map(selectorText));
}

/**
 * An agent whose token has been used, and who was recorded then, has been removed since: also a token that is being
 * redeemed again right now, because its answer was lost, does not bring it back.
 */
async function refuseSpentToken(tx: Kysely<Schema>, id: SpiffeId): Promise<void> {
  const spent = await tx
    .selectFrom('join_tokens')
    .select('hash')
    .where('used_for', '=', id.toString())
    .where('attested', '=', 1)
    .executeTakeFirst();
  if (spent === undefined) return;
  throw new AppError(
    'invalid-argument',
    'failed to attest: join token does not exist or has already been used',
  );
}

/** SPIRE's texts, which are what the agent and its administrator see. */
function refusal(id: SpiffeId, reason: 'AGENT_BANNED' | 'AGENT_NOT_ATTESTED'): AppError {
  const text = reason === 'AGENT_BANNED' ? 'agent is banned' : 'agent is not attested';
  return new AppError('permission-denied', text, { reason, cause: new Error(id.toString()) });
}

function rowOf(agent: AttestedAgent): Omit<AgentRow, 'agent_version'> {
  return {
    id: agent.id.toString(),
    attestation_type: agent.attestationType,
    serial: checkSerial(agent.serial),
    new_serial: '',
    expires_at: agent.expiresAt,
    new_expires_at: 0,
    selectors: selectorsJson(agent.selectors),
    can_reattest: flagOf(agent.canReattest),
  };
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
    agentVersion: row.agent_version,
  }));
}
