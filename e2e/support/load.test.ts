import { describe, expect, it } from 'vitest';
import { startApp } from './app.ts';
import { eventually } from './eventually.ts';
import { freePort } from './free-port.ts';
import { Load, LongLivedConnection } from './load.ts';
import { testSandbox } from './test-sandbox.ts';

describe('the load', () => {
  it('counts what succeeded', async () => {
    const sandbox = await testSandbox();
    const load = Load.start({ url: `http://127.0.0.1:${await startApp(sandbox, 'app')}/`, perSecond: 200 });
    await load.waitForMore(5);
    await load.stop();
    expect(load.failures).toEqual([]);
  });

  it('counts what failed, with the reason', async () => {
    const load = Load.start({ url: `http://127.0.0.1:${await freePort()}/`, perSecond: 200 });
    await eventually('a failure', () => load.failures.length > 0);
    await load.stop();
    expect(load.succeeded).toBe(0);
    expect(load.failures[0]?.reason).toMatch(/ECONNREFUSED/);
  });

  it('sees a long-lived connection go on, and end', async () => {
    const sandbox = await testSandbox();
    const connection = await LongLivedConnection.open(
      `http://127.0.0.1:${await startApp(sandbox, 'app')}/stream`,
    );
    await eventually('more than the first line', () => connection.received > 1);
    expect(connection.end).toBeUndefined();
    await sandbox.dispose();
    await eventually('its end', () => connection.end !== undefined);
  });
});
