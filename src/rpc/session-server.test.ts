import { once } from 'node:events';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { describe, expect, it, onTestFinished } from 'vitest';
import { eventually } from '../testing/eventually.ts';
import {
  agentId,
  call,
  h2,
  rawTls,
  root,
  serving,
  startTls,
  tlsChannelTo,
  tlsOf,
  validity,
} from '../testing/tls-listener.ts';

/** An HTTP/2 connection as the agent, as a Go client would hold it. */
async function sessionTo(address: string): Promise<ClientHttp2Session> {
  const socket = rawTls(address, h2(tlsOf(await root.issue(agentId, validity))));
  await once(socket, 'secureConnect');
  const session = connectHttp2('http://localhost', { createConnection: () => socket });
  session.on('error', () => undefined);
  onTestFinished(() => session.destroy());
  await once(session, 'remoteSettings');
  return session;
}

function ping(session: ClientHttp2Session): Promise<void> {
  return new Promise((resolve, reject) => {
    session.ping((error) => (error === null ? resolve() : reject(error)));
  });
}

describe('a connection', () => {
  it('may be pinged as often as a client likes, without calls as well', async () => {
    const { listener } = await startTls();
    const session = await sessionTo(listener.address);
    for (let i = 0; i < 500; i += 1) await ping(session);
    expect([session.closed, session.destroyed, listener.connections]).toEqual([false, false, 1]);
  });

  it('that is old is asked to go, without an error, and ends when its calls have', async () => {
    const finish = Promise.withResolvers<void>();
    const { listener } = await startTls({ maxConnectionAgeMs: 500, check: () => finish.promise });
    const session = await sessionTo(listener.address);
    const request = session.request({
      ':method': 'POST',
      ':path': '/grpc.health.v1.Health/Check',
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    request.end(Buffer.alloc(5));
    const [code] = await once(session, 'goaway');
    expect(code).toBe(0);
    expect(session.destroyed).toBe(false);
    const trailers = once(request, 'trailers');
    request.resume();
    finish.resolve();
    expect((await trailers)[0]).toMatchObject({ 'grpc-status': '0' });
    await eventually(() => expect(listener.connections).toBe(0));
  });

  it('that is old does not disturb a gRPC client, which makes another one', async () => {
    const { listener, callers } = await startTls({ maxConnectionAgeMs: 60 });
    const channel = tlsChannelTo(listener.address, tlsOf(await root.issue(agentId, validity)));
    const addresses = () => new Set(callers.map((caller) => 'address' in caller && caller.address));
    while (addresses().size < 4) expect(await call(channel)).toEqual(serving);
  });

  it('of age 0 is never asked to go', async () => {
    const { listener } = await startTls({ maxConnectionAgeMs: 0 });
    const session = await sessionTo(listener.address);
    let isAsked = false;
    session.on('goaway', () => {
      isAsked = true;
    });
    for (let i = 0; i < 50; i += 1) await ping(session);
    expect(isAsked).toBe(false);
  });
});
