import type { X509Certificate } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import { Certificate } from '../x509/certificate.ts';

/** A chain longer than this is no honest one, and each link costs a parse. */
const maxChainLength = 10;

/**
 * The certificates that the other side of a TLS connection presented, leaf first, without a self-signed root; empty
 * when it presented none. Throws AppError `invalid-argument` for one that our own parser refuses.
 */
export function peerChain(socket: TLSSocket): readonly Certificate[] {
  const chain: Certificate[] = [];
  let next: X509Certificate | undefined = socket.getPeerX509Certificate();
  while (next !== undefined && chain.length < maxChainLength) {
    const certificate = Certificate.parse(next.raw);
    const isRoot = chain.length > 0 && certificate.issuer.equals(certificate.subject);
    if (isRoot) break;
    chain.push(certificate);
    next = next.issuerCertificate;
  }
  return chain;
}
