import { z } from 'zod';
import { duration, parseConfig, parseYaml } from '../runtime/config-file.ts';
import type { NewEntry, RegistrationEntry } from '../spiffe/registration-entry.ts';
import { parseSelector, selectorText } from '../spiffe/selector.ts';
import { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
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
    hint: entry.hint,
    expiresAt: entry.expiresAt === 0 ? '' : new Date(entry.expiresAt * 1000).toISOString(),
    createdAt: new Date(entry.createdAt * 1000).toISOString(),
    revision: entry.revision,
  };
}

const ttl = z.union([
  z.literal('default').transform(() => 0),
  duration.transform((ms) => Math.floor(ms / 1000)),
]);

const entryDocument = z.strictObject({
  id: z.string().default(''),
  spiffeId: z.string(),
  parentId: z.string(),
  selectors: z.array(z.string()).min(1),
  x509SvidTtl: ttl.prefault('default'),
  jwtSvidTtl: ttl.prefault('default'),
  federatesWith: z.array(z.string()).default([]),
  dnsNames: z.array(z.string()).default([]),
  admin: z.boolean().default(false),
  downstream: z.boolean().default(false),
  hint: z.string().default(''),
  expiresAt: z.union([z.literal(''), z.iso.datetime({ offset: true })]).default(''),
  // Printed by `entry list`, and so accepted back; the server decides both.
  createdAt: z.string().optional(),
  revision: z.number().optional(),
});

/** Parses one entry or a list of them from JSON or YAML; throws `invalid-argument` with the path of each problem. */
export function parseEntries(text: string, where: string): readonly NewEntry[] {
  const value = parseYaml(text, where);
  const documents = parseConfig(Array.isArray(value) ? value : [value], z.array(entryDocument), where);
  return documents.map((document) => ({
    id: document.id,
    spiffeId: SpiffeId.parse(document.spiffeId),
    parentId: SpiffeId.parse(document.parentId),
    selectors: document.selectors.map(parseSelector),
    x509SvidTtlSeconds: document.x509SvidTtl,
    jwtSvidTtlSeconds: document.jwtSvidTtl,
    federatesWith: document.federatesWith.map((name) => TrustDomain.parseNameOrId(name)),
    dnsNames: document.dnsNames,
    admin: document.admin,
    downstream: document.downstream,
    storeSvid: false,
    hint: document.hint,
    expiresAt: document.expiresAt === '' ? 0 : Math.floor(Date.parse(document.expiresAt) / 1000),
    disableX509SvidPrefetch: false,
    jwtSvidIncludeJti: false,
  }));
}
