import { describe, expect, it } from 'vitest';
import type { PeerProcess, WorkloadAttestor } from '../../plugin-api/workload-attestor.ts';
import { AppError } from '../../runtime/error.ts';
import { type Selector, selectorText } from '../../spiffe/selector.ts';
import { memoryLogger } from '../../testing/grpc-listener.ts';
import { WorkloadAttestation } from './workload-attestation.ts';

/** A process that can exit and can go on with another program, and what attestors find out about it. */
class FakeProcess implements PeerProcess {
  readonly pid = 4711;
  readonly uid = 1000;
  readonly gid = 1000;
  readonly instance = 'started 1';
  isRunning = true;
  program = '/bin/web';
  looks = 0;

  isAlive(): boolean {
    return this.isRunning;
  }
}

function selectors(...values: string[]): readonly Selector[] {
  return values.map((value) => ({ type: 'test', value }));
}

/** An attestor with these selectors; `work` happens while it looks. */
function attestorOf(
  process: FakeProcess,
  options: { readonly found?: readonly Selector[]; readonly work?: () => Promise<void> } = {},
): WorkloadAttestor & { attestations: number } {
  return {
    attestations: 0,
    async attest() {
      this.attestations += 1;
      await options.work?.();
      return options.found ?? selectors('a');
    },
    async programFingerprint() {
      process.looks += 1;
      return process.program;
    },
  };
}

function attestationBy(attestors: Readonly<Record<string, WorkloadAttestor>>) {
  const { log, lines } = memoryLogger();
  return {
    attestation: new WorkloadAttestation({ attestors: new Map(Object.entries(attestors)), log }),
    lines,
  };
}

const denied = { code: 'permission-denied' };

describe('the attestation of a caller', () => {
  it('gathers what all attestors find, once and in order', async () => {
    const peer = new FakeProcess();
    const { attestation } = attestationBy({
      first: attestorOf(peer, { found: selectors('b', 'a') }),
      second: attestorOf(peer, { found: selectors('c', 'a') }),
    });
    const { selectors: found } = await attestation.attest({ peer, connection: {} });
    expect(found.map(selectorText)).toEqual(['test:a', 'test:b', 'test:c']);
  });

  it('happens once for all streams of a connection, and once more for the next connection', async () => {
    const peer = new FakeProcess();
    const attestor = attestorOf(peer);
    const { attestation } = attestationBy({ attestor });
    const connection = {};
    const [one, two] = await Promise.all([
      attestation.attest({ peer, connection }),
      attestation.attest({ peer, connection }),
    ]);
    expect(await attestation.attest({ peer, connection })).toBe(one);
    expect(two).toBe(one);
    expect(attestor.attestations).toBe(1);
    await attestation.attest({ peer, connection: {} });
    expect(attestor.attestations).toBe(2);
  });

  it('fails when one attestor fails: a missing selector could make another identity', async () => {
    const peer = new FakeProcess();
    const { attestation, lines } = attestationBy({
      sound: attestorOf(peer),
      broken: attestorOf(peer, { work: () => Promise.reject(new Error('secret detail')) }),
    });
    const refusal = { code: 'unavailable', message: 'workload attestation failed' };
    await expect(attestation.attest({ peer, connection: {} })).rejects.toMatchObject(refusal);
    expect(lines).toEqual([
      expect.objectContaining({ level: 'warn', attestor: 'broken', pid: 4711, uid: 1000 }),
    ]);
  });

  it('passes on the refusal of an attestor', async () => {
    const peer = new FakeProcess();
    const refusal = new AppError('permission-denied', 'no setuid programs', { reason: 'OTHER_IDS' });
    const { attestation } = attestationBy({
      strict: attestorOf(peer, { work: () => Promise.reject(refusal) }),
    });
    await expect(attestation.attest({ peer, connection: {} })).rejects.toBe(refusal);
  });

  it('that failed is not remembered: the next stream of the connection tries again', async () => {
    const peer = new FakeProcess();
    let isBroken = true;
    const attestor = attestorOf(peer, {
      work: async () => {
        if (isBroken) throw new Error('for a moment');
      },
    });
    const { attestation } = attestationBy({ attestor });
    const connection = {};
    await expect(attestation.attest({ peer, connection })).rejects.toMatchObject({ code: 'unavailable' });
    isBroken = false;
    await attestation.attest({ peer, connection });
    expect(attestor.attestations).toBe(2);
  });

  it('refuses a caller that exits while it is attested', async () => {
    const peer = new FakeProcess();
    const attestor = attestorOf(peer, {
      work: async () => {
        peer.isRunning = false;
      },
    });
    const { attestation } = attestationBy({ attestor });
    await expect(attestation.attest({ peer, connection: {} })).rejects.toMatchObject(denied);
  });

  it('refuses a caller whose program cannot be seen', async () => {
    const peer = new FakeProcess();
    const attestor: WorkloadAttestor = {
      attest: async () => selectors('a'),
      programFingerprint: () => Promise.reject(new Error('EACCES')),
    };
    const { attestation } = attestationBy({ attestor });
    await expect(attestation.attest({ peer, connection: {} })).rejects.toMatchObject(denied);
  });

  it('gives attestors a signal to stop by', async () => {
    const peer = new FakeProcess();
    const signals: AbortSignal[] = [];
    const attestor: WorkloadAttestor = {
      attest: async (_peer, { signal }) => {
        signals.push(signal);
        return selectors('a');
      },
    };
    const { attestation } = attestationBy({ attestor });
    await attestation.attest({ peer, connection: {} });
    expect(signals.map(({ aborted }) => aborted)).toEqual([false]);
  });
});

describe('a caller that was attested', () => {
  async function attested() {
    const peer = new FakeProcess();
    const { attestation, lines } = attestationBy({ attestor: attestorOf(peer) });
    const { verifyStillSame } = await attestation.attest({ peer, connection: {} });
    peer.looks = 0;
    return { peer, verifyStillSame, lines };
  }

  it('is still the same as long as it runs its program', async () => {
    const { verifyStillSame, peer } = await attested();
    await verifyStillSame();
    await verifyStillSame();
    expect(peer.looks).toBe(2);
  });

  it('is refused once it runs another program, and says so in the log', async () => {
    const { verifyStillSame, peer, lines } = await attested();
    peer.program = '/bin/sh';
    await expect(verifyStillSame()).rejects.toMatchObject(denied);
    expect(lines).toContainEqual(expect.objectContaining({ level: 'warn', pid: 4711 }));
  });

  it('is attested anew, as what it is by then, when it asks again after that', async () => {
    const peer = new FakeProcess();
    const attestor = attestorOf(peer);
    const { attestation } = attestationBy({ attestor });
    const connection = {};
    const before = await attestation.attest({ peer, connection });
    peer.program = '/bin/sh';
    await expect(before.verifyStillSame()).rejects.toMatchObject(denied);
    const after = await attestation.attest({ peer, connection });
    expect(attestor.attestations).toBe(2);
    await after.verifyStillSame();
    // What the first stream of the connection was granted stays refused.
    await expect(before.verifyStillSame()).rejects.toMatchObject(denied);
  });

  it('is refused when the program was replaced while it was attested', async () => {
    const peer = new FakeProcess();
    const attestor = attestorOf(peer, {
      work: async () => {
        peer.program = '/bin/sh';
      },
    });
    const { attestation } = attestationBy({ attestor });
    const { verifyStillSame } = await attestation.attest({ peer, connection: {} });
    await expect(verifyStillSame()).rejects.toMatchObject(denied);
  });

  it('is refused once it has exited, whatever is found under its number', async () => {
    const { verifyStillSame, peer } = await attested();
    peer.isRunning = false;
    await expect(verifyStillSame()).rejects.toMatchObject(denied);
  });

  it('is looked at once for all streams that ask at the same moment', async () => {
    const { verifyStillSame, peer } = await attested();
    await Promise.all([verifyStillSame(), verifyStillSame(), verifyStillSame()]);
    expect(peer.looks).toBe(1);
  });

  it('is looked at again after a failure', async () => {
    const { verifyStillSame, peer } = await attested();
    peer.program = '/bin/sh';
    await expect(verifyStillSame()).rejects.toMatchObject(denied);
    peer.program = '/bin/web';
    await verifyStillSame();
    expect(peer.looks).toBe(2);
  });
});
