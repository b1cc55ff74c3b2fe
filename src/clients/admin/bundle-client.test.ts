import { beforeAll, describe, expect, it } from 'vitest';
import { Bundle } from '../../spiffe/bundle.ts';
import { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { jwtKey } from '../../testing/jwt-keys.ts';
import { noAbort, TestServer } from '../../testing/test-server.ts';
import { TestTrustDomain } from '../../testing/trust-domain.ts';

const call = { signal: noAbort };
const other = TrustDomain.parse('other.org');
let bundle: Bundle;

beforeAll(async () => {
  const jwtAuthorities = [{ ...jwtKey('k'), expiresAt: 1_900_000_000 }];
  bundle = new Bundle({ ...(await TestTrustDomain.create('other.org')).bundle(), jwtAuthorities });
});

describe('the client of the bundle service', () => {
  it('stores, finds, lists, counts and deletes bundles of other trust domains', async () => {
    const { admin } = await TestServer.start();
    expect((await admin.bundles.set(bundle, call)).equals(bundle)).toBe(true);
    expect((await admin.bundles.getFederated(other, call)).equals(bundle)).toBe(true);
    const listed = await admin.bundles.listFederated(call);
    expect(listed.map((one) => one.equals(bundle))).toEqual([true]);
    expect(await admin.bundles.count(call)).toBe(2);
    await admin.bundles.delete([other], { mode: 'restrict', ...call });
    expect(await admin.bundles.listFederated(call)).toEqual([]);
  });

  it('lists them in order of trust domain', async () => {
    const server = await TestServer.start();
    for (let i = 0; i < 3; i += 1) {
      const trustDomain = TrustDomain.parse(`d${i}.org`);
      await server.admin.bundles.set(new Bundle({ ...bundle, trustDomain }), call);
    }
    const names = (await server.admin.bundles.listFederated(call)).map(({ trustDomain }) => trustDomain.name);
    expect(names).toEqual(['d0.org', 'd1.org', 'd2.org']);
  });

  it('says which bundle could not be deleted, after all were tried', async () => {
    const { admin } = await TestServer.start();
    await admin.bundles.set(bundle, call);
    const unknown = TrustDomain.parse('unknown.org');
    const refusals = await admin.bundles.delete([unknown, other], { mode: 'restrict', ...call });
    expect([...refusals]).toMatchObject([
      ['unknown.org', { code: 'not-found', message: 'bundle not found' }],
    ]);
    await expect(admin.bundles.getFederated(other, call)).rejects.toMatchObject({ code: 'not-found' });
  });

  it('hands on why a bundle was refused', async () => {
    const { admin, trustDomain } = await TestServer.start();
    const own = new Bundle({ ...bundle, trustDomain });
    await expect(admin.bundles.set(own, call)).rejects.toMatchObject({ code: 'invalid-argument' });
  });
});
