import { describe, expect, it } from 'vitest';
import { TestIdentity, testStartMs } from '../testing/certificates.ts';
import { type TestListFields, testRevocationList } from '../testing/revocation-lists.ts';
import { requireNotRevoked } from './revocation.ts';
import { RevocationList } from './revocation-list.ts';

const nowMs = testStartMs + 3_600_000;
const root = await TestIdentity.root('example.org');
const intermediate = await root.intermediate();
const leaf = await intermediate.issue('spiffe://example.org/node');
const path = [leaf.certificate, intermediate.certificate, root.certificate];

async function listOf(issuer: TestIdentity, fields: TestListFields = {}) {
  return RevocationList.parse(await testRevocationList(issuer, fields));
}

const ofRoot = await listOf(root);
const ofIntermediate = await listOf(intermediate);

const refusal = (reason: string, text: string) =>
  expect.objectContaining({ code: 'unauthenticated', reason, message: expect.stringContaining(text) });

describe('a path', () => {
  it('passes when each issuer in it has a current list that does not name it', () => {
    requireNotRevoked(path, [ofIntermediate, ofRoot], nowMs);
    requireNotRevoked(path.slice(1), [ofRoot], nowMs);
    requireNotRevoked(path.slice(2), [], nowMs);
  });

  it.each([
    { name: 'the leaf', revoked: leaf, by: intermediate, others: [ofRoot] },
    { name: 'the intermediate', revoked: intermediate, by: root, others: [ofIntermediate] },
  ])('is refused when $name is revoked', async ({ revoked, by, others }) => {
    const { serialHex } = revoked.certificate;
    const list = await listOf(by, { serials: ['01', serialHex] });
    expect(() => requireNotRevoked(path, [list, ...others], nowMs)).toThrow(
      refusal('CERTIFICATE_REVOKED', `serial ${serialHex}) is revoked`),
    );
  });

  it('is refused when one of two current lists revokes it', async () => {
    const revoking = await listOf(intermediate, { serials: [leaf.certificate.serialHex] });
    for (const lists of [
      [revoking, ofIntermediate, ofRoot],
      [ofRoot, ofIntermediate, revoking],
    ]) {
      expect(() => requireNotRevoked(path, lists, nowMs)).toThrow('is revoked');
    }
  });

  it('is not touched by a list of another authority that revokes the same serial number', async () => {
    const other = await root.intermediate({ commonName: 'other' });
    const revoking = await listOf(other, { serials: [leaf.certificate.serialHex] });
    requireNotRevoked(path, [revoking, ofIntermediate, ofRoot], nowMs);
  });

  it('takes the current one of an old and a new list', async () => {
    const old = await listOf(intermediate, { thisUpdateMs: nowMs - 9e8, nextUpdateMs: nowMs - 1000 });
    requireNotRevoked(path, [old, ofIntermediate, ofRoot], nowMs);
  });

  it('takes the list of the key that signed when an authority has had two', async () => {
    const rekeyed = await root.intermediate();
    const lists = [
      await listOf(rekeyed, { extensions: null }),
      await listOf(intermediate, { extensions: null }),
      ofRoot,
    ];
    requireNotRevoked(path, lists, nowMs);
    expect(() => requireNotRevoked(path, lists.slice(0, 1).concat(ofRoot), nowMs)).toThrow('signature');
  });
});

describe('fails closed', () => {
  it.each<{ name: string; fields: TestListFields; says: string }>([
    { name: 'the list is stale', fields: { nextUpdateMs: nowMs - 1000 }, says: 'to be replaced by 2026-' },
    { name: 'the list is of the future', fields: { thisUpdateMs: nowMs + 1000 }, says: 'dated 2026-' },
    {
      name: 'another key signed the list',
      fields: { signer: root.signer },
      says: 'its signature is not valid',
    },
  ])('when $name', async ({ fields, says }) => {
    const list = await listOf(intermediate, fields);
    expect(() => requireNotRevoked(path, [list, ofRoot], nowMs)).toThrow(refusal('REVOCATION_UNKNOWN', says));
  });

  it('when an issuer in the path has no list', () => {
    for (const lists of [[], [ofRoot], [ofIntermediate]]) {
      expect(() => requireNotRevoked(path, lists, nowMs)).toThrow(
        refusal('REVOCATION_UNKNOWN', 'there is none'),
      );
    }
  });

  it('when the authority may not sign lists', async () => {
    const mute = await root.intermediate({ keyUsage: ['keyCertSign'] });
    const below = await mute.issue('spiffe://example.org/node');
    const muted = [below.certificate, mute.certificate, root.certificate];
    const lists = [await listOf(mute), ofRoot];
    expect(() => requireNotRevoked(muted, lists, nowMs)).toThrow(refusal('REVOCATION_UNKNOWN', 'cRLSign'));
  });

  it('when the time is not a number', () => {
    expect(() => requireNotRevoked(path, [ofIntermediate, ofRoot], Number.NaN)).toThrow();
  });
});
