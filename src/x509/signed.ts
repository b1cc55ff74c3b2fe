import { type DerElement, DerReader, tags } from './der-reader.ts';
import { bitString, sequence } from './der-writer.ts';
import { type KeyType, signatureAlgorithmOf } from './signature.ts';
import { readAlgorithmIdentifier } from './spki.ts';

/** The frame that certificates and requests share: content, algorithm, signature (RFC 5280 §4.1.1, RFC 2986 §4.2). */
export interface Signed {
  readonly content: DerElement;
  /** AlgorithmIdentifier, DER. */
  readonly algorithm: Buffer;
  readonly algorithmOid: string;
  readonly signature: Buffer;
}

/** Takes the frame apart, nothing may follow it; throws AppError `invalid-argument`. */
export function readSigned(der: Buffer, what: string): Signed {
  const outer = new DerReader(der);
  const fields = outer.enter(what);
  outer.end(what);
  const content = fields.take(tags.sequence, `${what} content`);
  const algorithm = fields.take(tags.sequence, 'signature algorithm');
  const signature = fields.bitString('signature');
  fields.end(what);
  const { algorithm: algorithmOid } = readAlgorithmIdentifier(
    fields.inside(algorithm),
    'signature algorithm',
  );
  return { content, algorithm: algorithm.encoded, algorithmOid, signature };
}

/** Puts the frame around a content that a key of this type has signed. */
export function encodeSigned(content: Uint8Array, type: KeyType, signature: Uint8Array): Buffer {
  return sequence(content, signatureAlgorithmOf(type).identifier, bitString(signature));
}
