import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { AdminClient } from '../src/clients/admin/admin-client.ts';
import type { AgentSummary } from '../src/clients/admin/agent-client.ts';
import { unixChannel } from '../src/rpc/grpc-client.ts';
import { checkout } from './support/checkout.ts';
import { describeWith } from './support/parts.ts';
import type { Sandbox } from './support/sandbox.ts';
import { SignetAgent, SignetServer, signet } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

/** The commands of the guide that call OpenSSL, block by block: what it tells people to type is what runs here. */
const guide = readFileSync(`${checkout}docs/node-attestation.md`, 'utf8');
const blocks = [...guide.matchAll(/^```sh\n([\s\S]*?)^```$/gm)]
  .map(([, commands = '']) => commands)
  .filter((commands) => commands.includes('openssl'));

/** Runs commands of the guide in a directory; throws with what they said. */
function run(directory: string, commands: string): void {
  const { status, stderr } = spawnSync('sh', ['-euc', commands], { cwd: directory, encoding: 'utf8' });
  if (status !== 0) throw new Error(`${commands}: ${stderr}`);
}

/** An authority and the certificate of one node, made as the guide says. */
function followGuide(sandbox: Sandbox) {
  const directory = join(sandbox.dir, 'pki');
  mkdirSync(directory);
  const [authority = '', request = '', certificate = '', revocation = ''] = blocks;
  for (const commands of [authority, request, certificate]) run(directory, commands);
  const file = (name: string) => join(directory, name);
  return {
    caFile: file('node-ca.pem'),
    agentSettings: { x509pop: { certFile: file('node.pem'), keyFile: file('node.key') } },
    /** A revocation list, with the node on it or not. */
    writeList: (options: { readonly revoked: boolean }) => {
      const without = revocation.replaceAll(/^openssl ca .* -revoke .*\n/gm, '');
      run(
        directory,
        (options.revoked ? revocation : without).replaceAll('-out node-crl.pem', '-out next.pem'),
      );
      renameSync(file('next.pem'), file('node-crl.pem'));
      return file('node-crl.pem');
    },
  };
}

/** Forgets all agents; returns what the server knew of them. */
async function evictAll(server: SignetServer): Promise<readonly AgentSummary[]> {
  const channel = unixChannel(server.adminSocket);
  const signal = AbortSignal.timeout(10_000);
  try {
    const { agents } = new AdminClient(channel);
    const known = await agents.list({ signal });
    for (const { id } of known) await agents.delete(id, { signal });
    return known;
  } finally {
    channel.close();
  }
}

const rack = 'spiffe://example.org/rack/7';

describeWith({ linux: true }, 'a node with a certificate, as the guide says', () => {
  it('gets an identity, and its workloads theirs below a node alias', async () => {
    const sandbox = await testSandbox();
    const { caFile, agentSettings } = followGuide(sandbox);
    const server = await SignetServer.start(sandbox, { config: { nodeAttestors: { x509pop: { caFile } } } });
    await server.admin('entry', 'create', '--node', '--spiffe-id', rack, '--selector', 'x509pop:san:rack:7');
    const selectors = [`unix:uid:${process.getuid?.()}`];
    await server.createEntry({ spiffeId: 'spiffe://example.org/web', parent: rack, selectors });
    const agent = await SignetAgent.join(sandbox, { server, config: { nodeAttestor: agentSettings } });

    const identities = async () =>
      JSON.parse(await signet(['workload', 'x509', '--socket', agent.socket, '-o', 'json']));
    expect(await identities()).toMatchObject([{ spiffeId: 'spiffe://example.org/web' }]);
    const attested = await agent.process.waitForLine(/"message":"attested"/);
    expect(attested).toMatch(/spiffe:\/\/example\.org\/spire\/agent\/x509pop\/[0-9a-f]{40}"/);

    const known = await evictAll(server);
    expect(known).toMatchObject([{ attestationType: 'x509pop', canReattest: true }]);
    const times = () => agent.process.lines.filter((line) => line.includes('"message":"attested"')).length;
    await agent.process.until('attested again', () => times() === 2, { timeoutMs: 30_000 });
    await agent.waitUntilHealthy();
    expect(await identities()).toMatchObject([{ spiffeId: 'spiffe://example.org/web' }]);
  });

  it('comes back by itself after it has lost everything, until its certificate is revoked', async () => {
    const sandbox = await testSandbox();
    const { caFile, agentSettings, writeList } = followGuide(sandbox);
    const revocationListFile = writeList({ revoked: false });
    const x509pop = { caFile, revocationListFile, agentPathTemplate: '/x509pop/{{ .Subject.CommonName }}' };
    const server = await SignetServer.start(sandbox, { config: { nodeAttestors: { x509pop } } });
    for (const name of ['agent', 'again']) {
      const agent = await SignetAgent.join(sandbox, {
        name,
        server,
        config: { nodeAttestor: agentSettings },
      });
      const attested = await agent.process.waitForLine(/"message":"attested"/);
      expect(attested).toContain('"spiffe://example.org/spire/agent/x509pop/node-1"');
      await agent.stop();
    }
    writeList({ revoked: true });
    const late = await SignetAgent.prepare(sandbox, {
      name: 'late',
      server,
      config: { nodeAttestor: agentSettings },
    });
    await late.launch();
    const refusal = await late.process.waitForLine(/attestation failed; it is tried again/);
    expect(refusal).toMatch(
      /nodeattestor\(x509pop\): certificate verification failed: .*\\"CN=node-1\\".* is revoked/,
    );
  });
});
