import { Client, credentials, status } from '@grpc/grpc-js';
import fc from 'fast-check';
import { expect, it, onTestFinished } from 'vitest';
import { SecretDiscoveryServiceService } from '../../gen/envoy/service/secret/v3/sds.ts';
import { SpiffeWorkloadAPIService } from '../../gen/workloadapi.ts';
import { discoveryRequest } from '../../testing/envoy-node.ts';
import { eventually } from '../../testing/eventually.ts';
import { memoryLogger } from '../../testing/grpc-listener.ts';
import { faultCodes, protoBytes, sendBytes } from '../../testing/proto-fuzz.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { defaultSdsSettings } from '../../testing/sds-settings.ts';
import { TestTrustDomain } from '../../testing/trust-domain.ts';
import { startWorkloadSocket } from '../../testing/workload-socket.ts';
import { openSecretServices } from './secret-services.ts';
import { defaultStreamBudget, StreamBudget } from './stream-budget.ts';
import { workloadApi } from './workload-api.ts';

const methods = [SecretDiscoveryServiceService, SpiffeWorkloadAPIService].flatMap((service) =>
  Object.values(service).map(({ path, responseStream }) => ({
    path: path as string,
    isStream: responseStream,
  })),
);
const fetchSecrets = SecretDiscoveryServiceService.fetchSecrets.path;

it('a workload socket, asked for anything, answers and keeps no stream and no internal error', async () => {
  const domain = await TestTrustDomain.create('example.org');
  const web = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web' });
  const budget = new StreamBudget(defaultStreamBudget);
  const { log, lines } = memoryLogger();
  const { cache, target } = await startWorkloadSocket({
    log,
    services: (deps) => [
      ...openSecretServices(defaultSdsSettings, { ...deps, budget }).services,
      workloadApi({ ...deps, budget }),
    ],
  });
  cache.setBundle(domain.bundle());
  cache.setEntries([web]);
  cache.putSvids([await domain.sign(web)]);
  const client = new Client(target, credentials.createInsecure());
  onTestFinished(() => client.close());
  const own = Buffer.from(discoveryRequest({ names: ['default'] }));
  const message = fc.oneof(
    { weight: 1, arbitrary: fc.constant(own) },
    {
      weight: 4,
      arbitrary: protoBytes([
        'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret',
        'spiffe://example.org/web',
        'spiffe://example.org',
        'default',
        'ROOTCA',
        'ALL',
        '',
        '1',
        'x'.repeat(5_000),
        Buffer.from('eda080', 'hex'),
        own,
      ]),
    },
  );
  const seen = new Set<status>();
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...methods),
      fc.array(message, { minLength: 1, maxLength: 4 }),
      async ({ path, isStream }, messages) => {
        // A stream may stay open until then; what is answered once has time on a busy machine too.
        const timeoutMs = isStream ? 30 : 5_000;
        const { code, text } = await sendBytes(client, { path, messages, timeoutMs });
        seen.add(code);
        expect([path, text, faultCodes.includes(code)]).toEqual([path, text, false]);
      },
    ),
    { numRuns: 300 },
  );
  expect([...seen]).toEqual(expect.arrayContaining([status.OK, status.INVALID_ARGUMENT]));
  await eventually(() => expect(budget.users).toBe(0));
  const answer = await sendBytes(client, { path: fetchSecrets, messages: [own], timeoutMs: 10_000 });
  expect([answer.code, answer.messages.length]).toEqual([status.OK, 1]);
  expect(lines.filter(({ level }) => level === 'error')).toEqual([]);
});
