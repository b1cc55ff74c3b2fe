import type { AdminClient } from '../clients/admin/admin-client.ts';
import { AppError, isAppError } from '../runtime/error.ts';
import { systemClock } from '../runtime/time.ts';
import { verifyX509Svid, type X509Svid } from '../spiffe/x509-svid.ts';
import { buildCsr, parseCsr, verifyCsr } from '../x509/csr.ts';
import { parsePem } from '../x509/pem.ts';
import { createSoftwareSigner, generatePrivateKey, type KeyType } from '../x509/signature.ts';
import { readInput } from './input.ts';

/** A request as it goes to the server, and what the certificate must be for. */
export interface MintRequest {
  readonly csr: Uint8Array;
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: Uint8Array;
  readonly uris: readonly string[];
  /** PKCS#8; undefined when the key is somewhere else. */
  readonly keyPem?: string;
}

/** An X.509-SVID with all that its holder needs, PEM. */
export interface Minted {
  readonly svid: X509Svid;
  readonly svidPem: string;
  readonly keyPem: string | undefined;
  readonly bundlePem: string;
}

/** Labels of a PKCS#10 request in PEM; the second is that of older tools (RFC 7468 §7). */
const requestLabels: readonly string[] = ['CERTIFICATE REQUEST', 'NEW CERTIFICATE REQUEST'];

/** A request for a key that is made here. */
export async function newMintRequest(options: {
  readonly uris: readonly string[];
  readonly dnsNames: readonly string[];
  readonly keyType: KeyType;
}): Promise<MintRequest> {
  const { uris, dnsNames, keyType } = options;
  const key = await generatePrivateKey(keyType);
  const signer = createSoftwareSigner(key);
  return {
    csr: await buildCsr({ signer, uris, dnsNames }),
    spki: signer.publicKey,
    uris,
    keyPem: key.export({ type: 'pkcs8', format: 'pem' }).toString(),
  };
}

/** A request from a file, PEM or DER, or from stdin (`-`). Throws `invalid-argument` with what is wrong with it. */
export async function readMintRequest(file: string): Promise<MintRequest> {
  const { bytes, name } = await readInput(file, 'the CSR');
  try {
    const csr = parseCsr(requestIn(bytes));
    verifyCsr(csr);
    return { csr: csr.der, spki: csr.spki, uris: csr.uris };
  } catch (error) {
    throw isAppError(error) ? new AppError(error.code, `${name}: ${error.message}`) : error;
  }
}

function requestIn(content: Buffer): Buffer {
  if (!content.includes('-----BEGIN ')) return content;
  const [block, ...others] = parsePem(content.toString('latin1'));
  const isRequest = block !== undefined && requestLabels.includes(block.label) && others.length === 0;
  if (isRequest) return block.der;
  const found = block === undefined ? 'none' : [block, ...others].map(({ label }) => `"${label}"`).join(', ');
  throw new AppError('invalid-argument', `expected one PEM block "CERTIFICATE REQUEST", got ${found}`);
}

/** Has the request signed, and checks that the answer is what was asked for and verifies against the bundle. */
export async function mintX509(
  client: AdminClient,
  { csr, spki, uris, keyPem }: MintRequest,
  { ttlSeconds, signal }: { readonly ttlSeconds: number; readonly signal: AbortSignal },
): Promise<Minted> {
  const chain = await client.svids.mintX509({ csr, ttlSeconds, signal });
  const bundle = await client.bundles.getOwn({ signal });
  // The server's clock may be ahead of ours, and its certificates are not wrong for it.
  const nowMs = Math.max(systemClock.now(), chain[0]?.notBeforeMs ?? 0);
  const svid = verifyX509Svid({ chain, bundles: () => bundle, nowMs });
  if (!svid.leaf.spki.equals(spki) || !uris.includes(svid.id.toString())) {
    throw new AppError('internal', 'the server signed another identity or key than the request asks for');
  }
  return {
    svid,
    svidPem: chain.map((certificate) => certificate.toPem()).join(''),
    keyPem,
    bundlePem: bundle.toPem(),
  };
}
