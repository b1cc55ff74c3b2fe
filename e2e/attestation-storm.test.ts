import { expect, it, onTestFinished } from 'vitest';
import { AdminClient } from '../src/clients/admin/admin-client.ts';
import { ServerClient } from '../src/clients/server-client.ts';
import { tlsChannel, unixChannel } from '../src/rpc/grpc-client.ts';
import { isAppError } from '../src/runtime/error.ts';
import { Backoff, systemClock } from '../src/runtime/time.ts';
import { buildCsr } from '../src/x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey } from '../src/x509/signature.ts';
import { SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

const agents = 1_000;
const signal = AbortSignal.timeout(100_000);

/** Attests once, on a connection of its own as an agent has; whether the server is the right one is not asked. */
async function attest(address: string, token: string): Promise<string> {
  const channel = tlsChannel({ address, tls: { verifyServer: () => undefined } });
  try {
    const signer = createSoftwareSigner(await generatePrivateKey('ec-p256'));
    const attestation = { type: 'join_token', payload: Buffer.from(token), csr: await buildCsr({ signer }) };
    const answer = () => Promise.reject(new Error('there is no challenge'));
    const { id } = await new ServerClient(channel).attestAgent({ ...attestation, answer, signal });
    return id.toString();
  } finally {
    channel.close();
  }
}

/** As our agent does: again after as long as the server says, or after a growing while. */
async function attestInTheEnd(address: string, token: string): Promise<string> {
  const backoff = new Backoff({ baseMs: 500, capMs: 30_000 });
  for (;;) {
    try {
      return await attest(address, token);
    } catch (error) {
      if (isAppError(error, 'invalid-argument') || signal.aborted) throw error;
      await systemClock.sleep(backoff.nextMs(error), signal);
    }
  }
}

it('a thousand agents behind one address get in, though some among them fail', async () => {
  const server = await SignetServer.start(await testSandbox());
  const channel = unixChannel(server.adminSocket);
  onTestFinished(() => channel.close());
  const admin = new AdminClient(channel);
  const newToken = async () =>
    (await admin.agents.createJoinToken({ ttlSeconds: 600, agentId: undefined, signal })).value;
  const tokens = await Promise.all(Array.from({ length: agents }, newToken));
  const unknown = Array.from({ length: 20 }, (_, i) => `no-such-token-${i}`);
  const startedAtMs = performance.now();
  const failing = unknown.map((token) => attestInTheEnd(server.address, token).catch(() => undefined));
  const ids = await Promise.all(tokens.map((token) => attestInTheEnd(server.address, token)));
  const seconds = (performance.now() - startedAtMs) / 1000;
  expect(new Set(ids).size).toBe(agents);
  expect(await Promise.all(failing)).toEqual(unknown.map(() => undefined));
  expect((await admin.agents.list({ signal })).length).toBe(agents);
  expect(seconds).toBeLessThan(90);
});
