import { z } from 'zod';
import { parseConfig, parseYaml } from '../runtime/config-file.ts';
import { AppError, errorText, isAppError } from '../runtime/error.ts';
import { parseStrictJson } from '../runtime/strict-json.ts';
import type { NewEntry, RegistrationEntry } from '../spiffe/registration-entry.ts';
import { parseSelector, selectorText } from '../spiffe/selector.ts';
import { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { moment, seconds } from './command.ts';
import type { Row } from './output.ts';

/** What a table of entries shows. */
export const entryColumns = ['id', 'spiffeId', 'parentId', 'selectors', 'x509SvidTtl'] as const;

/** An entry as the command line prints it; `parseEntries` reads the same. Durations in seconds, 0 = default. */
export function entryRow(entry: RegistrationEntry): Row {
  return {
    id: entry.id,
    spiffeId: entry.spiffeId.toString(),
    parentId: entry.parentId.toString(),
    selectors: entry.selectors.map(selectorText),
    x509SvidTtl: entry.x509SvidTtlSeconds === 0 ? 'default' : `${entry.x509SvidTtlSeconds}s`,
    jwtSvidTtl: entry.jwtSvidTtlSeconds === 0 ? 'default' : `${entry.jwtSvidTtlSeconds}s`,
    federatesWith: entry.federatesWith.map((domain) => domain.name),
    dnsNames: entry.dnsNames,
    admin: entry.admin,
    downstream: entry.downstream,
    storeSvid: entry.storeSvid,
    disableX509SvidPrefetch: entry.disableX509SvidPrefetch,
    jwtSvidIncludeJti: entry.jwtSvidIncludeJti,
    hint: entry.hint,
    expiresAt: entry.expiresAt === 0 ? '' : timeText(entry.expiresAt),
    createdAt: timeText(entry.createdAt),
    revision: entry.revision,
  };
}

/** The server takes any number of seconds, a Date does not. */
const longestMs = 8.64e15;

function timeText(unixSeconds: number): string {
  return new Date(Math.min(unixSeconds * 1000, longestMs)).toISOString();
}

/** A text that `parse` understands; what it throws is said with the path. */
function parsed<T>(parse: (text: string) => T) {
  return z.string().transform((text, context) => {
    try {
      return parse(text);
    } catch (error) {
      context.addIssue({ code: 'custom', message: errorText(error) });
      return z.NEVER;
    }
  });
}

const ttl = parsed((text) => (text === 'default' ? 0 : seconds(text)));
const flag = z.boolean().default(false);

const entryDocument = z.strictObject({
  id: z.string().default(''),
  spiffeId: parsed(SpiffeId.parse),
  parentId: parsed(SpiffeId.parse),
  selectors: z.array(parsed(parseSelector)).min(1, 'expected at least one selector'),
  x509SvidTtl: ttl.prefault('default'),
  jwtSvidTtl: ttl.prefault('default'),
  federatesWith: z.array(parsed(TrustDomain.parseNameOrId)).default([]),
  dnsNames: z.array(z.string()).default([]),
  admin: flag,
  downstream: flag,
  storeSvid: flag,
  disableX509SvidPrefetch: flag,
  jwtSvidIncludeJti: flag,
  hint: z.string().default(''),
  expiresAt: parsed((text) => (text === '' ? 0 : moment(text))).prefault(''),
  // Printed by `entry list`, and so accepted back; the server decides both.
  createdAt: z.string().optional(),
  revision: z.number().optional(),
});

/** Of a file of thousands with the same mistake in each. */
const shownProblems = 20;

/** Parses one entry or a list of them from JSON or YAML; throws `invalid-argument` with the path of each problem. */
export function parseEntries(text: string, where: string): readonly NewEntry[] {
  const value = parseDocument(text, where);
  const documents = inBrief(() =>
    parseConfig(Array.isArray(value) ? value : [value], z.array(entryDocument), where),
  );
  return documents.map((document) => ({
    id: document.id,
    spiffeId: document.spiffeId,
    parentId: document.parentId,
    selectors: document.selectors,
    x509SvidTtlSeconds: document.x509SvidTtl,
    jwtSvidTtlSeconds: document.jwtSvidTtl,
    federatesWith: document.federatesWith,
    dnsNames: document.dnsNames,
    admin: document.admin,
    downstream: document.downstream,
    storeSvid: document.storeSvid,
    hint: document.hint,
    expiresAt: document.expiresAt,
    disableX509SvidPrefetch: document.disableX509SvidPrefetch,
    jwtSvidIncludeJti: document.jwtSvidIncludeJti,
  }));
}

/** JSON is YAML too, but a YAML parser takes minutes for what programs write: lists of 100,000 entries. */
function parseDocument(text: string, where: string): unknown {
  const isJson = /^\s*[[{]/.test(text);
  if (!isJson || !isJsonText(text)) return parseYaml(text, where);
  try {
    return parseStrictJson(text);
  } catch (error) {
    throw isAppError(error) ? new AppError(error.code, `${where}: ${error.message}`) : error;
  }
}

function isJsonText(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    // Not JSON, but perhaps YAML in its flow style; its parser also says where the mistake is.
    return false;
  }
}

function inBrief<T>(parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!isAppError(error)) throw error;
    const lines = error.message.split('\n');
    if (lines.length <= shownProblems) throw error;
    const shown = [...lines.slice(0, shownProblems), `and ${lines.length - shownProblems} more`];
    throw new AppError(error.code, shown.join('\n'));
  }
}
