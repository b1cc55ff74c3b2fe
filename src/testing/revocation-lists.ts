import { contextTag } from '../x509/der-reader.ts';
import { element, integer, sequence, smallInteger, time } from '../x509/der-writer.ts';
import { authorityKeyIdentifier } from '../x509/extensions.ts';
import { type Signer, signatureAlgorithmOf } from '../x509/signature.ts';
import { encodeSigned } from '../x509/signed.ts';
import { type TestIdentity, testStartMs } from './certificates.ts';

/** What a test list contains; what is left out is as RFC 5280 §5 wants it. */
export interface TestListFields {
  /** Hex, as `Certificate.serialHex`. */
  readonly serials?: readonly string[];
  readonly thisUpdateMs?: number;
  /** Null leaves it out. */
  readonly nextUpdateMs?: number | null;
  /** The number that is encoded: 1 stands for version 2. Null leaves it out, which stands for version 1. */
  readonly version?: number | null;
  /** Extensions of the list; null leaves the field out. */
  readonly extensions?: readonly Uint8Array[] | null;
  /** Extensions of each entry. */
  readonly entryExtensions?: readonly Uint8Array[];
  /** Signs instead of the issuer. */
  readonly signer?: Signer;
}

/** A revocation list of this authority, DER: current from `testStartMs` for a day unless the fields say otherwise. */
export async function testRevocationList(
  { certificate, signer }: TestIdentity,
  fields: TestListFields = {},
): Promise<Buffer> {
  const { version = 1, thisUpdateMs = testStartMs, serials = [], entryExtensions = [] } = fields;
  const { nextUpdateMs = thisUpdateMs + 24 * 3_600_000, extensions = [authorityKeyIdentifier(certificate)] } =
    fields;
  const by = fields.signer ?? signer;
  const entries = serials.map((hex) => {
    const more = entryExtensions.length === 0 ? [] : [sequence(...entryExtensions)];
    return sequence(integer(Buffer.from(hex, 'hex')), time(thisUpdateMs), ...more);
  });
  const content = sequence(
    ...(version === null ? [] : [smallInteger(version)]),
    signatureAlgorithmOf(by.type).identifier,
    certificate.subject,
    time(thisUpdateMs),
    ...(nextUpdateMs === null ? [] : [time(nextUpdateMs)]),
    ...(entries.length === 0 ? [] : [sequence(Buffer.concat(entries))]),
    ...(extensions === null ? [] : [element(contextTag(0, true), sequence(...extensions))]),
  );
  return encodeSigned(content, by.type, await by.sign(content));
}
