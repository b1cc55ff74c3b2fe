import type { Clock } from '../runtime/time.ts';
import type { SigningSlot } from '../server/authority/authority.ts';
import { SelfCertifier } from '../server/authority/certifier.ts';
import type { TrustDomain } from '../spiffe/spiffe-id.ts';
import type { KeyType, Signer } from '../x509/signature.ts';
import { newSigner } from './test-authority.ts';

/** A self-signed root of the trust domain with its key, as a new server makes one; valid for a day from now. */
export async function selfSignedSlot(options: {
  readonly trustDomain: TrustDomain;
  readonly clock: Clock;
  readonly subject?: {
    readonly commonName: string;
    organization: readonly string[];
    country: readonly string[];
  };
  readonly ttlMs?: number;
  readonly keyType?: KeyType;
  readonly signer?: Signer;
  readonly nameConstraints?: boolean;
}): Promise<SigningSlot> {
  const { trustDomain, clock, ttlMs = 86_400_000, nameConstraints = false } = options;
  const subject = options.subject ?? { commonName: trustDomain.name, organization: ['Signet'], country: [] };
  const signer = options.signer ?? (await newSigner(options.keyType));
  const certifier = new SelfCertifier(clock, { trustDomain, subject, ttlMs, pathLength: 0, nameConstraints });
  const { certificate } = await certifier.certify(signer);
  return { id: certificate.subjectKeyId!, certificate, chain: [], signer };
}
