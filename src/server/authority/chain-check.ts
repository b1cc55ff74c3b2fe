import { AppError, isAppError } from '../../runtime/error.ts';
import { Bundle } from '../../spiffe/bundle.ts';
import { SpiffeId, type TrustDomain } from '../../spiffe/spiffe-id.ts';
import { verifyX509Svid } from '../../spiffe/x509-svid.ts';
import { type Certificate, parseCertificates } from '../../x509/certificate.ts';
import { createSoftwareSigner, generatePrivateKey } from '../../x509/signature.ts';
import { type SigningSlot, signLeaf } from './authority.ts';

/** Long enough to be valid, short enough to be of no use. */
const trialTtlMs = 60_000;

/**
 * Signs a trial leaf with a slot and verifies it as a peer with the coming bundle would: key, chain, path lengths, name
 * constraints, times. Its key is forgotten at once. Throws `failed-precondition` with what a peer would say.
 */
export async function checkAsPeer(options: {
  readonly slot: SigningSlot;
  /** That of the slot's chain among them. */
  readonly roots: readonly Certificate[];
  readonly trustDomain: TrustDomain;
  readonly nowMs: number;
}): Promise<void> {
  const { slot, roots, trustDomain, nowMs } = options;
  const { publicKey: spki } = createSoftwareSigner(await generatePrivateKey('ec-p256'));
  const id = SpiffeId.of(trustDomain, '/spire/trial');
  try {
    const { chain } = await signLeaf({ id, spki, dnsNames: [], ttlMs: trialTtlMs }, slot, {
      trustDomain,
      nowMs,
    });
    const x509Authorities = roots.map((certificate) => ({ certificate, tainted: false }));
    const coming = new Bundle({ trustDomain, x509Authorities, sequence: 0, refreshHintSeconds: 0 });
    verifyX509Svid({ chain: chain.flatMap(parseCertificates), bundles: () => coming, nowMs });
  } catch (error) {
    if (!isAppError(error, 'unauthenticated')) throw error;
    throw new AppError(
      'failed-precondition',
      `no peer would accept what the new signing certificate signs: ${error.message}`,
      error.reason === undefined ? {} : { reason: error.reason },
    );
  }
}
