import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, type TestContext } from 'vitest';
import { WorkloadClient } from '../src/clients/workload-client.ts';
import { verifyX509Svid } from '../src/spiffe/x509-svid.ts';
import { parsePemCertificates } from '../src/x509/certificate.ts';
import { describeWith } from './support/parts.ts';
import { SignetAgent, SignetServer } from './support/signet.ts';
import { compileSteppedClock, SteppedClock } from './support/stepped-clock.ts';
import { testSandbox } from './support/test-sandbox.ts';

const hour = 3_600;
/** Short, so that what is due is looked for every four seconds. */
const caTtl = 240;
const ttlSeconds = 40;

/** Both shapes in which the server itself makes certificates. */
const topologies = [
  { name: 'self-signed', upstream: {} },
  { name: 'local_root', upstream: { upstreamAuthority: { local_root: { keyManager: { disk: {} } } } } },
];

describeWith({ linux: true, 'a C compiler': true }, 'a server whose clock is wrong', () => {
  const folder = mkdtempSync(join(tmpdir(), 'signet-'));
  let library = '';
  beforeAll(() => {
    library = compileSteppedClock(folder);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  async function started(config: object, context: TestContext) {
    const sandbox = await testSandbox(context);
    const clock = new SteppedClock(sandbox.dir, library);
    const server = await SignetServer.prepare(sandbox, { config });
    const start = async () => {
      await server.launch(clock.env);
      await server.waitUntilHealthy();
    };
    await start();
    /** Waits for a certificate that lasts as long as promised and that a peer whose clock is the same accepts. */
    const signs = () =>
      server.process.until(
        'a certificate with its whole life',
        async () => {
          const { cert } = await server.mint('spiffe://example.org/web', { ttlSeconds });
          const bundle = await server.call(({ bundles }, signal) => bundles.getOwn({ signal }));
          const nowMs = clock.now();
          const { leaf } = verifyX509Svid({
            chain: parsePemCertificates(cert),
            bundles: () => bundle,
            nowMs,
          });
          return leaf.notAfterMs > nowMs + (ttlSeconds - 5) * 1_000;
        },
        { timeoutMs: 20_000 },
      );
    await signs();
    return { sandbox, server, clock, start, signs };
  }

  it.concurrent.for(topologies)(
    'by an hour, ahead or behind, and is $name signs on, and so it does when it is set right',
    { timeout: 120_000 },
    async ({ upstream }, context) => {
      const { sandbox, server, clock, signs } = await started(upstream, context);
      const agent = await SignetAgent.join(sandbox, { server });
      for (const seconds of [hour, -hour, -hour, hour]) {
        clock.step(seconds);
        await signs();
      }
      // The agent, whose clock was right all the time, gets what is new.
      const selectors = [`unix:path:${process.execPath}`];
      await server.createEntry({ spiffeId: 'spiffe://example.org/me', parent: agent.alias, selectors });
      const client = WorkloadClient.connect(`unix://${agent.socket}`);
      sandbox.onDispose(() => client.close());
      const fetching = () => client.fetchX509Svids({ signal: AbortSignal.timeout(10_000) });
      const { svids, bundles } = await agent.process.until('an SVID', fetching, { timeoutMs: 30_000 });
      const { chain } = svids[0]!.svid;
      verifyX509Svid({ chain, bundles: () => [...bundles.values()][0], nowMs: Date.now() });
      await agent.waitUntilHealthy();
      await server.waitUntilHealthy();
    },
  );

  it.concurrent.for(topologies)(
    'because it slept, or was down, and is $name does what is due and signs on',
    { timeout: 120_000 },
    async ({ upstream }, context) => {
      const svidTtl = `${ttlSeconds}s`;
      const authority = { caTtl: `${caTtl}s`, x509SvidTtl: svidTtl, agentTtl: svidTtl };
      const { server, clock, start, signs } = await started({ authority, ...upstream }, context);
      const active = async () => {
        const { authorities } = await server.call((client, signal) => client.authorities.show({ signal }));
        return authorities.find(({ role, state }) => role === 'signing' && state === 'active')!.id;
      };
      const first = await active();
      // Over the preparation and the takeover of its successor.
      clock.step(Math.ceil((caTtl * 11) / 12));
      await signs();
      await server.process.until('a takeover', async () => (await active()) !== first);
      // Over the end of its certificate, asleep and then down.
      const second = await active();
      clock.step(caTtl + 1);
      await signs();
      const third = await active();
      expect(third).not.toBe(second);
      await server.stop({ signal: 'SIGKILL' });
      clock.step(caTtl + 1);
      await start();
      await signs();
      expect(await active()).not.toBe(third);
    },
  );
});
