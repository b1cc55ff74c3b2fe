import type { DataStore } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import { Bundle } from '../../spiffe/bundle.ts';
import type { NewEntry } from '../../spiffe/registration-entry.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { Certificate } from '../../x509/certificate.ts';
import { basicConstraints } from '../../x509/extensions.ts';
import { issueCertificate, newSerial } from '../../x509/issue.ts';
import { encodeName } from '../../x509/names.ts';
import { createSoftwareSigner, generatePrivateKey } from '../../x509/signature.ts';

/** One empty database for one test. */
export interface DataStoreHarness {
  readonly store: DataStore;
  /** Closes the store and opens the same database again. */
  reopen(): Promise<DataStore>;
}

/** Makes a harness around a new, empty database. */
export type OpenHarness = () => Promise<DataStoreHarness>;

/** A change that fails. */
export const boom = () => {
  throw new AppError('aborted', 'boom');
};
/** The trust domain of all samples. */
export const ours = TrustDomain.parse('example.org');
/** The agent of all samples. */
export const agentId = SpiffeId.parse('spiffe://example.org/spire/agent/join_token/a');

/** An entry with something to lose in every field but `federatesWith`, which needs stored bundles. */
export function newEntry(changes: Partial<NewEntry> = {}): NewEntry {
  return {
    id: 'e1',
    spiffeId: SpiffeId.parse('spiffe://example.org/web'),
    parentId: agentId,
    selectors: ['unix:path:/bin/a:b', 'unix:uid:1000'].map(parseSelector),
    x509SvidTtlSeconds: 3600,
    jwtSvidTtlSeconds: 300,
    federatesWith: [],
    dnsNames: ['web.example.org', 'web'],
    admin: true,
    downstream: false,
    storeSvid: true,
    hint: 'internal "é"',
    expiresAt: 1_800_000_000,
    disableX509SvidPrefetch: true,
    jwtSvidIncludeJti: false,
    ...changes,
  };
}

/** An attestation of `agentId`. */
export const attestation = {
  id: agentId,
  attestationType: 'join_token',
  serial: '340282366920938463463374607431768211455',
  expiresAt: 1_800_000_000,
  selectors: [parseSelector('a:b:c'), parseSelector('a:d')],
  canReattest: false,
};

/** A bundle of `ours` without authorities. */
export function emptyBundle(sequence = 0): Bundle {
  return new Bundle({ trustDomain: ours, x509Authorities: [], sequence, refreshHintSeconds: 0 });
}

/** A self-signed CA certificate. */
export async function makeRoot(commonName: string): Promise<Certificate> {
  const signer = createSoftwareSigner(await generatePrivateKey('ec-p256'));
  const name = encodeName({ commonName });
  const template = {
    serial: newSerial(),
    issuer: name,
    subject: name,
    notBeforeMs: Date.UTC(2026, 0, 1),
    notAfterMs: Date.UTC(2027, 0, 1),
    spki: signer.publicKey,
    extensions: [basicConstraints({ ca: true, pathLength: 0 })],
  };
  return Certificate.parse(await issueCertificate(template, signer));
}
