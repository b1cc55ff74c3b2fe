import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { AgentRecord, AgentStore } from '../../plugin-api/data-store.ts';
import { isAppError } from '../../runtime/error.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { agentId, attestation, type OpenHarness } from './samples.ts';

const ids = ['1', '2'].map((end) => SpiffeId.parse(`${agentId}${end}`));

const step = fc.record({
  what: fc.constantFrom('attest', 'renew', 'promote', 'version', 'ban', 'delete'),
  who: fc.constantFrom(...ids.keys()),
  serial: fc.constantFrom('1', '2', '3'),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** What an agent should be after its steps: undefined = not known. */
type Model = AgentRecord | undefined;

/** The whole life cycle as one pure function; 'refused' = the step must not succeed. */
function after(agent: Model, { what, who, serial }: Step): Model | 'refused' {
  const isActive = agent !== undefined && !agent.banned;
  switch (what) {
    case 'attest': {
      if (agent?.banned === true) return 'refused';
      const fresh = { ...attestation, id: ids[who] ?? agentId, serial };
      return {
        ...fresh,
        newSerial: '',
        newExpiresAt: 0,
        banned: false,
        agentVersion: agent?.agentVersion ?? '',
      };
    }
    case 'renew':
      return isActive ? { ...agent, newSerial: serial, newExpiresAt: 7 } : 'refused';
    case 'promote':
      if (!isActive) return 'refused';
      if (agent.newSerial !== serial) return agent;
      return { ...agent, serial, expiresAt: agent.newExpiresAt, newSerial: '', newExpiresAt: 0 };
    case 'version':
      return isActive ? { ...agent, agentVersion: serial } : 'refused';
    case 'ban':
      return agent && { ...agent, serial: '', newSerial: '', newExpiresAt: 0, banned: true };
    case 'delete':
      return undefined;
  }
}

async function take(agents: AgentStore, { what, who, serial }: Step): Promise<unknown> {
  const id = ids[who] ?? agentId;
  switch (what) {
    case 'attest':
      return agents.recordAttestation({ ...attestation, id, serial });
    case 'renew':
      return agents.recordRenewal(id, { serial, expiresAt: 7 });
    case 'promote':
      return agents.promoteSerial(id, serial);
    case 'version':
      return agents.recordVersion(id, serial);
    case 'ban':
      return agents.ban(id).catch((error: unknown) => {
        if (!isAppError(error, 'not-found')) throw error;
      });
    case 'delete':
      return agents.delete(id);
  }
}

/** The steps of an agent's life in any order, compared with a model of it after each of them. */
export function describesAgentLifeCycle(open: OpenHarness): void {
  it('live as the model says, whatever happens to them in whatever order', async () => {
    const { store } = await open();
    const { agents } = store;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
        for (const id of ids) await agents.delete(id);
        const model: Model[] = ids.map(() => undefined);
        for (const taken of steps) {
          const expected = after(model[taken.who], taken);
          const outcome = await take(agents, taken).then(
            () => 'done',
            (error: unknown) => (isAppError(error, 'permission-denied') ? 'refused' : error),
          );
          expect(outcome).toBe(expected === 'refused' ? 'refused' : 'done');
          if (expected !== 'refused') model[taken.who] = expected;
          expect(await Promise.all(ids.map((id) => agents.find(id)))).toEqual(model);
        }
        const known = model.filter((agent) => agent !== undefined);
        expect(await agents.list()).toEqual(known);
        expect(await agents.count({ banned: true })).toBe(known.filter(({ banned }) => banned).length);
      }),
      { numRuns: 40 },
    );
  });
}
