import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { Load } from './support/load.ts';
import { startMesh } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import { type SignetAgent, type SignetServer, trySignet } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

async function idOfOnlyAgent(server: SignetServer): Promise<string> {
  const agents: { id: string; agentVersion: string }[] = JSON.parse(
    await server.admin('agent', 'list', '-o', 'json'),
  );
  expect(agents).toMatchObject([{ agentVersion: expect.stringMatching(/^signet\/\d/) }]);
  return agents[0]!.id;
}

const health = async (agent: SignetAgent) => trySignet(['health', '--socket', agent.adminSocket]);

describeWith({ envoy: true, linux: true }, 'an agent that an administrator removes', () => {
  it('keeps a running mesh going when it is evicted, and says what it needs', async () => {
    const sandbox = await testSandbox();
    const { server, agent, sidecars } = await startMesh(sandbox, { oneRequestPerConnection: true });
    await sidecars.firstAnswer();
    const load = Load.start({ url: sidecars.url, perSecond: 25 });
    sandbox.onDispose(() => load.stop());
    await server.admin('agent', 'evict', await idOfOnlyAgent(server));
    await agent.process.waitForLine(/does not accept this agent any more.*|.*signet token create/);
    await agent.process.until('degraded', async () => {
      const { stdout } = await health(agent);
      return stdout.includes('signet token create') && stdout.includes('not attested');
    });
    await load.waitForMore(25);
    await load.stop();
    expect(load.failures).toEqual([]);
    expect(agent.process.exit).toBeUndefined();
  });

  it('loses its keys and hands out no identity when it is banned; running proxies keep theirs', async () => {
    const sandbox = await testSandbox();
    const { server, agent, sidecars } = await startMesh(sandbox, { oneRequestPerConnection: true });
    await sidecars.firstAnswer();
    const load = Load.start({ url: sidecars.url, perSecond: 25 });
    sandbox.onDispose(() => load.stop());
    const id = await idOfOnlyAgent(server);
    const { code, stderr } = await trySignet(['agent', 'ban', id, '--socket', server.adminSocket]);
    expect(code).toBe(0);
    expect(stderr).toContain('a running Envoy keeps the certificate it has until that expires');
    await agent.process.until('not ready', async () => {
      const { code, stdout } = await health(agent);
      return code === 4 && stdout.includes(`signet agent evict ${id}`);
    });
    const files = await readdir(agent.dataDir, { recursive: true, withFileTypes: true });
    const contents = await Promise.all(
      files.filter((file) => file.isFile()).map((file) => readFile(join(file.parentPath, file.name), 'utf8')),
    );
    expect(contents.join('\n')).not.toContain('PRIVATE KEY');
    await load.waitForMore(25);
    await load.stop();
    expect(load.failures).toEqual([]);
    expect(agent.process.exit).toBeUndefined();
  });
});
