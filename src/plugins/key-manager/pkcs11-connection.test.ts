import { describe, expect, it, onTestFinished } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { ScriptedToken } from '../../testing/scripted-token.ts';
import { type ConnectedToken, TokenConnection } from './pkcs11-connection.ts';

const never = new AbortController().signal;
const sign = (token: ConnectedToken) => token.request('sign', { id: '01', data: Buffer.of(1) });

function connectionTo(token: ScriptedToken) {
  const clock = new FakeClock();
  const connection = new TokenConnection(
    {
      startWorker: token.startWorker,
      // Files take real time, which the clock here knows nothing of; pkcs11-pin.test.ts has them.
      refusedPins: { check: async () => undefined, remember: async () => undefined },
      onConnected: () => undefined,
      clock,
      log: silentLogger,
    },
    {
      module: '/m.so',
      tokenLabel: 'ca',
      tokenSerial: undefined,
      slot: undefined,
      pinFile: '/no/such/pin',
      userType: 1,
      sessions: 4,
      labelPrefix: 'server/',
    },
    5_000,
  );
  onTestFinished(() => connection.close());
  return { connection, clock };
}

/** Connected, and for so long that the next fault is the first of its kind. */
async function connected(token: ScriptedToken) {
  const parts = connectionTo(token);
  await parts.clock.advance(0);
  await parts.connection.use(sign, never);
  await parts.clock.advance(6_000);
  token.asked.length = 0;
  return parts;
}

describe('the connection to a token', () => {
  it.each<{ name: string; fault: string; next: string; workers: number }>([
    {
      name: 'renews its sessions when they are gone',
      fault: 'CKR_SESSION_HANDLE_INVALID',
      next: 'renew',
      workers: 1,
    },
    {
      name: 'has the module initialized anew when the token is in trouble',
      fault: 'CKR_DEVICE_ERROR',
      next: 'reinitialize',
      workers: 1,
    },
    {
      name: 'treats codes that it does not know so too',
      fault: 'CKR_0x80000001',
      next: 'reinitialize',
      workers: 1,
    },
    { name: 'starts another worker when one hangs', fault: 'NO_ANSWER', next: 'reinitialize', workers: 2 },
    { name: 'and when one has ended', fault: 'WORKER_ENDED', next: 'reinitialize', workers: 2 },
  ])('$name', async ({ fault, next, workers }) => {
    const token = new ScriptedToken();
    const { connection, clock } = await connected(token);
    token.faults.sign.push(fault);
    const signed = connection.use(sign, never);
    await clock.advance(0);
    await signed;
    expect(token.asked).toEqual(['sign 1', `connect 2 ${next}`, 'sign 2']);
    expect(token.workers).toBe(workers);
  });

  it('initializes the module when new sessions did not help', async () => {
    const token = new ScriptedToken();
    const { connection, clock } = await connected(token);
    token.faults.sign.push('CKR_SESSION_HANDLE_INVALID', 'CKR_SESSION_HANDLE_INVALID');
    const signed = connection.use(sign, never);
    await clock.advance(50);
    await signed;
    expect(token.asked.filter((line) => line.startsWith('connect'))).toEqual([
      'connect 2 renew',
      'connect 3 reinitialize',
    ]);
  });

  it('pauses 0, 50, 250, 1000, 2000 and again 2000 ms, and takes a new worker now and then', async () => {
    const token = new ScriptedToken();
    const { connection, clock } = await connected(token);
    token.faults.sign.push('CKR_TOKEN_NOT_PRESENT');
    token.faults.connect.push(...Array.from({ length: 6 }, () => 'TOKEN_NOT_FOUND'));
    const start = clock.monotonic();
    let signedAt = 0;
    const signed = connection.use(sign, never).then(() => {
      signedAt = clock.monotonic() - start;
    });
    const attemptsAfter: number[] = [];
    for (const ms of [0, 50, 250, 1_000, 2_000, 2_000, 2_000]) {
      await clock.advance(ms);
      attemptsAfter.push(token.asked.filter((line) => line.startsWith('connect')).length);
    }
    await signed;
    expect(attemptsAfter).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(signedAt).toBe(7_300);
    expect(token.workers).toBe(2);
  });

  it('connects once for all who met the fault', async () => {
    const token = new ScriptedToken();
    const { connection, clock } = await connected(token);
    token.faults.sign.push(...Array.from({ length: 20 }, () => 'CKR_SESSION_CLOSED'));
    const all = Promise.all(Array.from({ length: 20 }, () => connection.use(sign, never)));
    await clock.advance(0);
    expect(await all).toHaveLength(20);
    expect(token.asked.filter((line) => line.startsWith('connect'))).toEqual(['connect 2 renew']);
  });

  it('notices at once when a worker ends by itself, also while nobody signs', async () => {
    const token = new ScriptedToken();
    const { connection, clock } = await connected(token);
    token.killLast();
    await clock.advance(0);
    expect(token.asked).toEqual(['connect 2 reinitialize']);
    expect(connection.problem).toBeUndefined();
    expect(token.workers).toBe(2);
  });

  it('does not break for the others over what fails on each connection', async () => {
    const token = new ScriptedToken();
    const { connection, clock } = await connected(token);
    token.faults.generate.push(...Array.from({ length: 3 }, () => 'CKR_GENERAL_ERROR'));
    const made = connection.use(
      (connected) => connected.request('generate', { id: '01', label: 'k', type: 'ec-p256' }),
      never,
    );
    const refused = expect(made).rejects.toMatchObject({
      code: 'unavailable',
      message: 'token "ca": CKR_GENERAL_ERROR in C_Test',
    });
    await clock.advance(50);
    await refused;
    await connection.use(sign, never);
    expect(connection.generation).toBe(3);
  });

  it('does not connect anew for what would only fail again', async () => {
    const token = new ScriptedToken();
    const { connection } = await connected(token);
    token.faults.sign.push('CKR_MECHANISM_INVALID');
    await expect(connection.use(sign, never)).rejects.toMatchObject({ code: 'failed-precondition' });
    expect(connection.generation).toBe(1);
  });

  it('gives up on one who cannot wait, and says since when and why', async () => {
    const token = new ScriptedToken();
    const { connection, clock } = await connected(token);
    token.faults.sign.push('CKR_DEVICE_REMOVED');
    token.faults.connect.push(...Array.from({ length: 99 }, () => 'TOKEN_NOT_FOUND'));
    const patience = new AbortController();
    const refused = expect(connection.use(sign, patience.signal)).rejects.toMatchObject({
      code: 'unavailable',
      message:
        'token "ca" cannot be reached for 8 s: the PKCS#11 module shows no such token; it is tried again and again',
    });
    await clock.advance(8_000);
    patience.abort();
    await refused;
  });

  it('asks every 20 s whether the token is still there', async () => {
    const token = new ScriptedToken();
    const { connection, clock } = await connected(token);
    await clock.advance(20_000);
    expect(token.asked).toEqual(['ping 1']);
    token.faults.ping.push('CKR_DEVICE_REMOVED');
    await clock.advance(20_000);
    expect(token.asked).toEqual(['ping 1', 'ping 1', 'connect 2 reinitialize']);
    expect(connection.problem).toBeUndefined();
    await clock.advance(20_000);
    expect(token.asked.at(-1)).toBe('ping 2');
    expect(token.asked.filter((line) => line.startsWith('ping'))).toHaveLength(3);
  });

  it('ends when it is closed, also in the middle of an outage', async () => {
    const token = new ScriptedToken();
    const { connection, clock } = await connected(token);
    token.faults.sign.push('CKR_DEVICE_REMOVED');
    token.faults.connect.push('TOKEN_NOT_FOUND');
    const refused = expect(connection.use(sign, never)).rejects.toMatchObject({ code: 'unavailable' });
    await clock.advance(0);
    await connection.close();
    await refused;
    const before = token.asked.length;
    await clock.advance(60_000);
    expect(token.asked).toHaveLength(before);
    expect(clock.sleepers).toBe(0);
  });

  it('says at the start what is wrong with the settings, and later waits for it to be put right', async () => {
    const token = new ScriptedToken();
    token.faults.connect.push('MODULE_NOT_LOADED');
    const { connection, clock } = connectionTo(token);
    const refused = expect(connection.use(sign, never)).rejects.toMatchObject({
      code: 'failed-precondition',
    });
    await clock.advance(0);
    await refused;
    await clock.advance(6_000);
    token.faults.sign.push('CKR_DEVICE_REMOVED');
    token.faults.connect.push('MODULE_NOT_LOADED');
    const signed = connection.use(sign, never);
    await clock.advance(1_000);
    await signed;
  });
});
