import { status } from '@grpc/grpc-js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HealthService as GrpcHealthService } from '../../gen/grpc/health/v1/health.ts';
import { HealthService } from '../../gen/signet/health/v1/health.ts';
import { AgentService } from '../../gen/spire/api/server/agent/v1/agent.ts';
import { BundleService } from '../../gen/spire/api/server/bundle/v1/bundle.ts';
import { DebugService } from '../../gen/spire/api/server/debug/v1/debug.ts';
import { EntryService } from '../../gen/spire/api/server/entry/v1/entry.ts';
import { LocalAuthorityService } from '../../gen/spire/api/server/localauthority/v1/localauthority.ts';
import { LoggerService } from '../../gen/spire/api/server/logger/v1/logger.ts';
import { SVIDService } from '../../gen/spire/api/server/svid/v1/svid.ts';
import { TrustDomainService } from '../../gen/spire/api/server/trustdomain/v1/trustdomain.ts';
import { faultCodes, protoBytes, sendBytes } from '../../testing/proto-fuzz.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { newRequest, noAbort, TestServer } from '../../testing/test-server.ts';
import { encodePageToken } from './page-token.ts';

const signal = noAbort;
const methods = [
  AgentService,
  BundleService,
  DebugService,
  EntryService,
  LocalAuthorityService,
  LoggerService,
  SVIDService,
  TrustDomainService,
  HealthService,
  GrpcHealthService,
].flatMap((service) =>
  Object.values(service).map((method) => ({
    path: method.path as string,
    isStream: method.requestStream || method.responseStream,
    parse: method.responseDeserialize as (bytes: Buffer) => object,
  })),
);

/** The codes of a batch's items, wherever they are in an answer. */
function codesIn(value: unknown): readonly number[] {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return [];
  const { status: own } = value as { status?: { code?: unknown } };
  const code = typeof own === 'object' && typeof own?.code === 'number' ? [own.code] : [];
  return [...code, ...Object.values(value).flatMap(codesIn)];
}

describe('the server, asked for anything by anybody', () => {
  it('answers, and never that it does not know what happened', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    const parentId = agent.id;
    await server.admin.entries.create([{ ...testEntry({ id: 'entry' }), parentId }], { signal });
    const { csr } = await newRequest(['spiffe://example.org/web']);
    const bundle = await server.admin.bundles.getOwn({ signal });
    const message = protoBytes([
      'spiffe://example.org/web',
      'example.org',
      'other.org',
      '/web',
      '/spire/agent/join_token/x',
      'entry',
      'unix',
      'uid:0',
      'join_token',
      'x509pop',
      '{"certificates":["MIIB"]}',
      '2026-01-01T00:00:00Z',
      'web.example.org',
      encodePageToken('entry'),
      '',
      'x'.repeat(5_000),
      Buffer.from('eda080', 'hex'),
      csr,
      bundle.x509Authorities[0]!.certificate.der,
      agent.signer.publicKey,
    ]);
    const clients = {
      administrator: server.adminChannel.client,
      agent: agent.channel.client,
      workload: (await server.connect(await server.mint(testEntry().spiffeId))).client,
      nobody: (await server.connect()).client,
    };
    const seen = new Set<status>();
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...methods),
        fc.constantFrom('administrator', 'administrator', 'agent', 'workload', 'nobody' as const),
        fc.array(message, { minLength: 1, maxLength: 3 }),
        async ({ path, isStream, parse }, who, messages) => {
          const sent = isStream ? messages : messages.slice(0, 1);
          const client = clients[who as keyof typeof clients];
          const timeoutMs = path.endsWith('/Watch') ? 20 : 5_000;
          const answer = await sendBytes(client, { path, messages: sent, timeoutMs });
          seen.add(answer.code);
          const codes = [answer.code, ...answer.messages.flatMap((bytes) => codesIn(parse(bytes)))];
          const faults = codes.filter((code) => faultCodes.includes(code));
          expect([path, answer.text, faults]).toEqual([path, answer.text, []]);
        },
      ),
      { numRuns: 500 },
    );
    // They got further than to the door.
    const reached = [status.OK, status.INVALID_ARGUMENT, status.PERMISSION_DENIED];
    expect([...seen]).toEqual(expect.arrayContaining(reached));
    expect((await agent.client.getBundle({ signal })).trustDomain.name).toBe('example.org');
  });
});
