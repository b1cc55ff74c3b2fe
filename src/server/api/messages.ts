import type { X509SVID } from '../../gen/spire/api/types/x509svid.ts';
import { spiffeIdToWire } from '../../rpc/messages.ts';
import type { SignedSvid } from '../authority/authority.ts';

/** A signed SVID as SPIRE writes it: whole seconds, DER certificates, leaf first. */
export function svidToWire(svid: SignedSvid): X509SVID {
  return {
    certChain: svid.chain.map((der) => Buffer.from(der)),
    id: spiffeIdToWire(svid.id),
    expiresAt: BigInt(Math.floor(svid.notAfterMs / 1000)),
    hint: '',
  };
}
