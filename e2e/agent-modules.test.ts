import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { checkout } from './support/checkout.ts';
import { describeWith } from './support/parts.ts';
import { SignetAgent, SignetServer, trySignet } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

/** Has a role write down what it loads; the environment for that, and what it has loaded so far. */
function loadedModules(file: string) {
  return {
    env: {
      NODE_OPTIONS: `--import=${checkout}e2e/support/list-modules.mjs`,
      SIGNET_LOADED_MODULES: file,
    },
    read: async () => (await readFile(file, 'utf8')).split('\n'),
  };
}

/** Packages for servers and for tests: they would cost every node start-up time and memory. */
const heavy =
  /\/node_modules\/(kysely|pg|mysql2?|better-sqlite3|pkcs11js|jose|@peculiar|reflect-metadata)\/|^node:sqlite$/;

describeWith({ linux: true }, 'the agent', () => {
  it('loads nothing that only servers need, also when it has served identities', async () => {
    const sandbox = await testSandbox();
    const server = await SignetServer.start(sandbox);
    const ofServer = loadedModules(join(sandbox.dir, 'server-modules'));
    await server.stop();
    await server.launch(ofServer.env);
    await server.waitUntilHealthy();

    const agent = await SignetAgent.prepare(sandbox, { server });
    const ofAgent = loadedModules(join(sandbox.dir, 'agent-modules'));
    await agent.launch(ofAgent.env);
    await agent.waitUntilHealthy();
    const selectors = [`unix:path:${process.execPath}`];
    await server.createEntry({ spiffeId: 'spiffe://example.org/web', parent: agent.alias, selectors });
    await agent.process.until('an identity for this program', async () => {
      const { code } = await trySignet(['workload', 'x509', '--socket', agent.socket]);
      return code === 0;
    });

    const loaded = await ofAgent.read();
    expect(loaded.filter((url) => url.includes('/node_modules/@grpc/grpc-js/')).length).toBeGreaterThan(10);
    expect(loaded.filter((url) => heavy.test(url))).toEqual([]);
    // The same look at the server does see them.
    expect((await ofServer.read()).filter((url) => heavy.test(url)).length).toBeGreaterThan(0);
  });
});
