import { AppError } from '../runtime/error.ts';
import { contextTag, type DerReader, malformed } from './der-reader.ts';
import { element } from './der-writer.ts';

/** The kinds of GeneralName by tag number (RFC 5280 §4.2.1.6). */
export const generalNameKinds = [
  'otherName',
  'rfc822Name',
  'dNSName',
  'x400Address',
  'directoryName',
  'ediPartyName',
  'uniformResourceIdentifier',
  'iPAddress',
  'registeredID',
] as const;
/** One kind of GeneralName. */
export type GeneralNameKind = (typeof generalNameKinds)[number];

/** Constructed choices: IMPLICIT SEQUENCEs, and the EXPLICIT directoryName. */
const constructedKinds: ReadonlySet<GeneralNameKind> = new Set([
  'otherName',
  'x400Address',
  'directoryName',
  'ediPartyName',
]);

/** The tag of a kind. */
function generalNameTag(kind: GeneralNameKind): number {
  return contextTag(generalNameKinds.indexOf(kind), constructedKinds.has(kind));
}

/** A GeneralName: `text` for the kinds that are IA5 strings, else empty. */
export interface GeneralName {
  readonly kind: GeneralNameKind;
  readonly text: string;
}

const textKinds: ReadonlySet<GeneralNameKind> = new Set([
  'rfc822Name',
  'dNSName',
  'uniformResourceIdentifier',
]);

/** Reads the next GeneralName; throws AppError `invalid-argument`. */
export function readGeneralName(reader: DerReader, what: string): GeneralName {
  const { tag, contents } = reader.any(what);
  const kind = generalNameKinds[tag & 0x1f];
  if (kind === undefined || tag !== generalNameTag(kind)) throw malformed(`${what}: not a general name`);
  if (!textKinds.has(kind)) return { kind, text: '' };
  // A NUL or a line break inside a name makes two readers see two names ("bank.example\0.evil.example").
  if (!contents.every((byte) => byte >= 0x20 && byte <= 0x7e))
    throw malformed(`${what}: ${kind} has bytes outside printable ASCII`);
  return { kind, text: contents.toString('latin1') };
}

/** Encodes a GeneralName that is an IA5 string; throws AppError `invalid-argument` outside printable ASCII. */
export function encodeGeneralName(kind: 'dNSName' | 'uniformResourceIdentifier', text: string): Buffer {
  if (!/^[\x20-\x7e]+$/.test(text))
    throw new AppError(
      'invalid-argument',
      `${kind} ${JSON.stringify(text)}: expected printable ASCII, not empty`,
    );
  return element(generalNameTag(kind), Buffer.from(text, 'latin1'));
}
