import { describe, expect, it } from 'vitest';
import { isAppError } from '../../runtime/error.ts';
import { AuthorityProcess } from '../../testing/authority-process.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;
const signal = new AbortController().signal;

const start = () => AuthorityProcess.ready({ dataDir: tempDir(), clock: new FakeClock() });

/** A server whose first authority was replaced by hand; `use` is an SVID that the first one has signed. */
async function replaced() {
  const server = await start();
  const first = server.signing!.subjectKeyId!;
  await server.issue();
  const { administration } = server.rooms;
  const { id: second } = await administration.prepare({ newRoot: false, signal });
  await administration.activate(second);
  return { server, administration, first, second };
}

async function refusalOf(work: Promise<unknown>): Promise<string> {
  const error = await work.catch((refusal: unknown) => refusal);
  if (!isAppError(error)) throw new Error('there was no refusal');
  return `${error.code}: ${error.message}`;
}

describe('an authority that is prepared by hand', () => {
  it('is published, and signs only when it is activated', async () => {
    const server = await start();
    const first = server.signing!.subjectKeyId!;
    const { id } = await server.rooms.administration.prepare({ newRoot: false, signal });
    await server.step();
    expect(server.served).toEqual([first, id]);
    expect(server.signing?.subjectKeyId).toBe(first);
    await server.rooms.administration.activate(id);
    expect(server.signing?.subjectKeyId).toBe(id);
    expect(await server.journal()).toEqual([`signing active ${id}`, `signing old ${first}`]);
  });

  it('takes the place of one that was prepared before, whose key is destroyed', async () => {
    const server = await start();
    const { administration } = server.rooms;
    const { id: dropped } = await administration.prepare({ newRoot: false, signal });
    const { id } = await administration.prepare({ newRoot: false, signal });
    expect(await server.journal()).toEqual([
      `signing active ${server.signing!.subjectKeyId}`,
      `signing prepared ${id}`,
    ]);
    expect(await server.keyManager.listKeys()).toHaveLength(2);
    expect(await server.store.keys.retired()).toEqual([]);
    expect(server.served).toContain(dropped);
  });

  it('goes on by itself in its time when nobody activates it', async () => {
    const server = await start();
    const { id } = await server.rooms.administration.prepare({ newRoot: false, signal });
    await server.live(20.5 * hourMs);
    expect(server.signing?.subjectKeyId).toBe(id);
  });

  it('cannot be prepared or activated before there is an active one', async () => {
    const server = await AuthorityProcess.start({ dataDir: tempDir(), clock: new FakeClock() });
    const { administration } = server.rooms;
    expect(await refusalOf(administration.prepare({ newRoot: false, signal }))).toBe(
      'unavailable: server is initializing',
    );
  });
});

describe('a tainted authority', () => {
  it('is marked in journal and bundle, also after a restart, and signs nothing more', async () => {
    const { server, administration, first, second } = await replaced();
    await administration.taint(first);
    expect(server.tainted).toEqual([first]);
    const after = await server.restart();
    await after.step();
    expect(after.tainted).toEqual([first]);
    expect((await after.store.authorities.list()).find(({ id }) => id === first)?.taintedAtMs).toBe(
      server.clock.now(),
    );
    // Back to where only the first was valid: it would be taken back, were it not tainted.
    after.clock.stepWallClock(-minuteMs);
    await after.step();
    expect([first, second]).not.toContain(after.signing?.subjectKeyId);
  });

  it('is in use until its SVIDs have been replaced', async () => {
    const { server, administration, first } = await replaced();
    await server.issue(hourMs, 'other');
    await administration.taint(first);
    const use = async () => {
      const records = (await server.store.authorities.list()).filter(({ id }) => id === first);
      return server.rooms.issued.inUse(records, server.clock.now());
    };
    expect(await use()).toMatchObject({ svids: 1, agents: 1, minted: 0 });
    expect(await refusalOf(administration.revoke(first, { force: false }))).toMatch(
      /^failed-precondition: .*1 SVIDs of 1 agents are still in use, the last until .*--force/,
    );
    await server.issue();
    expect(await use()).toMatchObject({ svids: 0, agents: 0 });
    await administration.revoke(first, { force: false });
    expect(server.served).not.toContain(first);
  });

  it('is in use until its SVIDs have expired when nobody replaces them', async () => {
    const { server, administration, first } = await replaced();
    await administration.taint(first);
    await server.clock.advance(hourMs - 1_000);
    expect(await refusalOf(administration.revoke(first, { force: false }))).toContain('still in use');
    // The journal is written ahead by a tenth of a lifetime.
    await server.clock.advance(hourMs / 10 + 1_000);
    await administration.revoke(first, { force: false });
  });

  it('may be in use after a restart, which forgets what was signed, until all of it has expired', async () => {
    const { server, administration, first } = await replaced();
    await administration.taint(first);
    const after = await server.restart();
    await after.step();
    expect(await refusalOf(after.rooms.administration.revoke(first, { force: false }))).toContain(
      'signed before this server was started',
    );
    await after.clock.advance(1.2 * hourMs);
    await after.rooms.administration.revoke(first, { force: false });
    expect(after.served).not.toContain(first);
  });

  it('can be revoked at once by force; its key is destroyed', async () => {
    const { server, administration, first } = await replaced();
    await administration.taint(first);
    expect(await server.keyManager.listKeys()).toHaveLength(2);
    await administration.revoke(first, { force: true });
    expect(server.served).not.toContain(first);
    await server.step();
    expect(await server.keyManager.listKeys()).toHaveLength(1);
    const after = await server.restart();
    await after.step();
    expect(after.served).not.toContain(first);
  });
});

describe('what cannot be done is refused as SPIRE does', () => {
  it.each<{
    name: string;
    act: (made: Awaited<ReturnType<typeof replaced>>) => Promise<unknown>;
    says: string;
  }>([
    {
      name: 'activating nothing',
      act: ({ administration }) => administration.activate(''),
      says: 'invalid-argument: no authority ID provided',
    },
    {
      name: 'activating a stranger',
      act: ({ administration }) => administration.activate('ab'),
      says: 'invalid-argument: unexpected authority ID',
    },
    {
      name: 'activating the active one',
      act: ({ administration, second }) => administration.activate(second),
      says: 'failed-precondition: only Prepared authorities can be activated: unsupported local authority status: ACTIVE',
    },
    {
      name: 'tainting nothing',
      act: ({ administration }) => administration.taint(''),
      says: 'invalid-argument: no authority ID provided',
    },
    {
      name: 'tainting the active one',
      act: ({ administration, second }) => administration.taint(second),
      says: 'invalid-argument: unable to taint current local authority',
    },
    {
      name: 'tainting a stranger',
      act: ({ administration }) => administration.taint('ab'),
      says: 'invalid-argument: unexpected authority ID',
    },
    {
      name: 'tainting a prepared one',
      act: async ({ administration }) =>
        administration.taint((await administration.prepare({ newRoot: false, signal })).id),
      says: 'invalid-argument: only Old local authorities can be tainted: unsupported local authority status: PREPARED',
    },
    {
      name: 'tainting twice',
      act: async ({ administration, first }) => {
        await administration.taint(first);
        return administration.taint(first);
      },
      says: 'failed-precondition: failed to taint X.509 authority: root CA is already tainted',
    },
    {
      name: 'tainting an upstream authority without one',
      act: ({ administration, first }) => administration.taintUpstream(first),
      says: 'failed-precondition: upstream authority is not configured',
    },
    {
      name: 'revoking nothing',
      act: ({ administration }) => administration.revoke('', { force: true }),
      says: 'invalid-argument: invalid authority ID: no authority ID provided',
    },
    {
      name: 'revoking the active one',
      act: ({ administration, second }) => administration.revoke(second, { force: true }),
      says: 'invalid-argument: invalid authority ID: unable to use current authority',
    },
    {
      name: 'revoking a stranger',
      act: ({ administration }) => administration.revoke('ab', { force: true }),
      says: 'invalid-argument: invalid authority ID: only Old local authority can be revoked',
    },
    {
      name: 'revoking what is not tainted',
      act: ({ administration, first }) => administration.revoke(first, { force: true }),
      says: 'failed-precondition: failed to revoke X.509 authority: it is not possible to revoke an untainted root CA',
    },
    {
      name: 'revoking an upstream authority without one',
      act: ({ administration, first }) => administration.revokeUpstream(first, { force: true }),
      says: 'failed-precondition: upstream authority is not configured',
    },
    {
      name: 'a new root above self-signed ones',
      act: ({ administration }) => administration.prepare({ newRoot: true, signal }),
      says: 'failed-precondition: a new root can be asked for only with upstreamAuthority: local_root; without an upstream authority each new authority is a new root',
    },
  ])('$name', async ({ act, says }) => {
    expect(await refusalOf(act(await replaced()))).toBe(says);
  });
});
