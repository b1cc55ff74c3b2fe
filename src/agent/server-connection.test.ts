import { describe, expect, it, onTestFinished } from 'vitest';
import { Observable } from '../runtime/observable.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { X509Svid } from '../spiffe/x509-svid.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { ScriptedServer } from '../testing/scripted-server.ts';
import { newRequest, noAbort } from '../testing/test-server.ts';
import { bundleOf } from '../testing/trust-domain.ts';
import type { AgentIdentityState } from './agent-identity.ts';
import { ServerConnection } from './server-connection.ts';

const trustDomain = TrustDomain.parse('example.org');
const hourMs = 3_600_000;

/** An agent's connection to this server, with an identity that the server signed unless `withoutIdentity`. */
async function connect(server: ScriptedServer, options: { clock: FakeClock; withoutIdentity?: boolean }) {
  const { clock, withoutIdentity = false } = options;
  const state = new Observable<AgentIdentityState | undefined>(undefined);
  const connection = new ServerConnection({ address: server.address, trustDomain, identity: state, clock });
  onTestFinished(() => connection.close());
  if (!withoutIdentity) state.set(await identityFrom(server));
  return { state, connection };
}

async function identityFrom(
  server: ScriptedServer,
  bundle: Bundle = server.script.bundle,
): Promise<AgentIdentityState> {
  const nowMs = Date.now();
  const leaf = await server.root.issue('spiffe://example.org/spire/agent/a', {
    notBeforeMs: nowMs - hourMs,
    notAfterMs: nowMs + hourMs,
  });
  const svid = X509Svid.parse([leaf.certificate]);
  return { svid, privateKeyPem: leaf.privateKeyPem, bundle, reattestable: false };
}

const newClock = () => new FakeClock(Date.now());
const serialOf = ({ caller }: ScriptedServer) =>
  caller?.kind === 'svid' ? caller.certificate.serialHex : caller?.kind;
const unproven = { code: 'unavailable' };

describe('the connection to the server', () => {
  it('is refused while there is no identity', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    const { connection } = await connect(server, { clock, withoutIdentity: true });
    expect(() => connection.client()).toThrow(expect.objectContaining({ code: 'unavailable' }));
  });

  it('presents the identity, over one channel as long as that stays', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    const { connection, state } = await connect(server, { clock });
    const client = connection.client();
    await client.getBundle({ signal: noAbort });
    expect(serialOf(server)).toBe(state.value?.svid.leaf.serialHex);
    state.set({ ...state.value!, bundle: bundleOf('example.org', [server.root.certificate], 2) });
    expect(connection.client()).toBe(client);
  });

  it('is opened anew with a new certificate', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    const { connection, state } = await connect(server, { clock });
    const client = connection.client();
    await client.getBundle({ signal: noAbort });
    state.set(await identityFrom(server));
    expect(connection.client()).not.toBe(client);
    await connection.client().getBundle({ signal: noAbort });
    expect(serialOf(server)).toBe(state.value?.svid.leaf.serialHex);
  });

  it('lets a call that runs finish when the certificate changes', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    const { connection, state } = await connect(server, { clock });
    const asked = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<void>();
    const { renew } = server.script;
    server.script.renew = async (csr) => {
      asked.resolve();
      await answer.promise;
      return renew(csr);
    };
    const { csr } = await newRequest();
    const renewed = connection.client().renewAgent({ csr, signal: noAbort });
    await asked.promise;
    state.set(await identityFrom(server));
    await connection.client().getBundle({ signal: noAbort });
    answer.resolve();
    expect(await renewed).toHaveLength(1);
  });

  it('can be closed and used again', async () => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock });
    const { connection } = await connect(server, { clock });
    connection.close();
    connection.close();
    await connection.client().getBundle({ signal: noAbort });
    expect(server.calls).toEqual(['GetBundle']);
  });

  it.each([
    'spiffe://example.org/web',
    'spiffe://example.org/spire/agent/b',
    'spiffe://other.org/spire/server',
  ])('does not speak with %s in place of the server', async (id) => {
    const clock = newClock();
    const server = await ScriptedServer.start({ clock, id });
    const { connection } = await connect(server, { clock });
    await expect(connection.client().getBundle({ signal: noAbort })).rejects.toMatchObject(unproven);
    expect(server.calls).toEqual([]);
  });

  it('believes a server only under the bundle of the moment', async () => {
    const clock = newClock();
    const issuer = await TestIdentity.root('example.org', { notAfterMs: Date.now() + hourMs });
    const server = await ScriptedServer.start({ clock, issuer });
    const { connection, state } = await connect(server, { clock });
    await expect(connection.client().getBundle({ signal: noAbort })).rejects.toMatchObject(unproven);
    const both = [server.root.certificate, issuer.certificate];
    state.set({ ...(await identityFrom(server)), bundle: bundleOf('example.org', both) });
    await connection.client().getBundle({ signal: noAbort });
    expect(server.calls).toEqual(['GetBundle']);
  });
});
