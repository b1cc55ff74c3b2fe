import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Company } from './support/company.ts';
import { eventually } from './support/eventually.ts';
import { type PathVerifier, pathVerifiers, writePem } from './support/path-verifiers.ts';
import { SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

interface Topology {
  readonly name: 'self-signed' | 'local_root' | 'disk';
  /** Certificates of a chain; the root is in none. */
  readonly length: number;
  readonly caKeyType: string;
  readonly nameConstraints: boolean;
}

describe('path validations of others', () => {
  const folder = mkdtempSync(join(tmpdir(), 'signet-'));
  let verifiers: readonly PathVerifier[] = [];
  beforeAll(() => {
    verifiers = pathVerifiers(folder);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it('are there', () => {
    // One of another family than what Node itself uses.
    if (process.env['CI'] === 'true') expect(verifiers.length).toBeGreaterThan(1);
  });

  it.concurrent.for<Topology>([
    { name: 'self-signed', length: 1, caKeyType: 'ec-p256', nameConstraints: false },
    { name: 'self-signed', length: 1, caKeyType: 'rsa-2048', nameConstraints: true },
    { name: 'local_root', length: 2, caKeyType: 'ec-p384', nameConstraints: false },
    { name: 'local_root', length: 2, caKeyType: 'ec-p256', nameConstraints: true },
    { name: 'disk', length: 3, caKeyType: 'ec-p256', nameConstraints: false },
    { name: 'disk', length: 3, caKeyType: 'rsa-3072', nameConstraints: true },
  ])(
    'accept chains of $name with $caKeyType and name constraints $nameConstraints, before and after its root is replaced',
    { timeout: 60_000 },
    async ({ name, length, ...authority }, context) => {
      const sandbox = await testSandbox(context);
      const { dir } = sandbox;
      const company = name === 'disk' ? await Company.create(sandbox) : undefined;
      const upstream = {
        'self-signed': {},
        local_root: { upstreamAuthority: { local_root: { keyManager: { disk: {} } } } },
        disk: { upstreamAuthority: { disk: company?.config } },
      }[name];
      const patience = { timeoutMs: 40_000 };
      const server = await SignetServer.start(sandbox, { config: { authority, ...upstream }, patience });
      const mint = async () => (await server.mint('spiffe://example.org/web', { ttlSeconds: 600 })).cert;
      const firstBundle = await server.bundle();
      const before = await mint();
      await company?.renew();
      const isSelfSigned = name === 'self-signed';
      const prepared = await eventually(
        'another root',
        async () => {
          const newRoot = name === 'local_root';
          const made = await server.call(({ authorities }, signal) =>
            authorities.prepare({ newRoot, signal }),
          );
          const { rootId } = made;
          const isOther = isSelfSigned || !(await rootIds(server)).includes(rootId);
          return isOther ? made : undefined;
        },
        patience,
      );
      await server.call(({ authorities }, signal) => authorities.activate(prepared.id, { signal }));
      const after = await mint();

      const roots = writePem(dir, 'roots.pem', await server.bundle());
      const firstRoot = writePem(dir, 'first-root.pem', firstBundle);
      const chains = [before, after].map((pem, i) => writePem(dir, `chain-${i}.pem`, pem));
      for (const pem of [before, after]) expect(pem.match(/BEGIN CERTIFICATE/g)).toHaveLength(length);
      for (const { name: who, verdict } of verifiers) {
        for (const chain of chains) expect([who, verdict(roots, chain)]).toEqual([who, 'OK']);
        expect([who, verdict(firstRoot, chains[0]!)]).toEqual([who, 'OK']);
        // They would say so.
        expect([who, verdict(firstRoot, chains[1]!)]).not.toEqual([who, 'OK']);
      }
    },
  );
});

/** Of the signing certificates that are active or old. */
async function rootIds(server: SignetServer): Promise<readonly string[]> {
  const { authorities } = await server.call((client, signal) => client.authorities.show({ signal }));
  return authorities
    .filter(({ role, state }) => role === 'signing' && state !== 'prepared')
    .map(({ rootId }) => rootId);
}
