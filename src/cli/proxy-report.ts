import type { ConnectedProxy, ProxySecret } from '../clients/proxies-client.ts';
import { print, printRecord, printRows, type Row, text } from './output.ts';

/** Columns of `signet proxy list`. */
export const proxyColumns = [
  ...['pid', 'node', 'version', 'identities', 'secrets'],
  ...['acknowledged', 'pending', 'held', 'stalled', 'refused', 'connectedAt'],
] as const;

/** A proxy in the table of `signet proxy list`. */
export function proxyRow(proxy: ConnectedProxy): Row {
  const { pid, node, identities, omitted, counts, connectedAtMs } = proxy;
  const [first = '', ...others] = identities;
  const more = others.length + omitted.identities;
  return {
    pid,
    node: node?.id ?? '',
    version: node?.version ?? '',
    identities: more === 0 ? first : `${first} (+${more})`,
    secrets: sum(proxy),
    ...counts,
    connectedAt: timeText(connectedAtMs),
  };
}

/** A proxy as `list` prints it as data. */
export function proxyDocument(proxy: ConnectedProxy) {
  const { node, counts } = proxy;
  return {
    pid: proxy.pid,
    uid: proxy.uid,
    gid: proxy.gid,
    node: node?.id ?? '',
    cluster: node?.cluster ?? '',
    version: node?.version ?? '',
    identities: proxy.identities,
    selectors: proxy.selectors,
    protocols: proxy.protocols,
    connected: proxy.connections > 0,
    connectedAt: timeText(proxy.connectedAtMs),
    connections: proxy.connections,
    streams: proxy.streams,
    counts: { secrets: sum(proxy), ...counts },
    omitted: proxy.omitted,
  };
}

/** A proxy as `show` prints it as data. */
export function proxyWithSecrets(proxy: ConnectedProxy) {
  return { ...proxyDocument(proxy), secrets: proxy.secrets.map(secretDocument) };
}

function secretDocument(secret: ProxySecret) {
  const { sent, acknowledged, refused } = secret;
  return {
    name: secret.name,
    kind: secret.kind ?? '',
    state: secret.state,
    streams: secret.streams,
    sentVersion: sent?.version ?? '',
    sentAt: timeText(sent?.atMs),
    bytes: sent?.bytes ?? 0,
    acknowledgedVersion: acknowledged?.version ?? '',
    acknowledgedAt: timeText(acknowledged?.atMs),
    refusedVersion: refused?.version ?? '',
    refusedAt: timeText(refused?.atMs),
    error: refused?.error ?? '',
    held: secret.held,
    nextStep: secret.nextStep,
  };
}

/** Prints all about a proxy for people: what it is, its secrets, and what is wrong with some of them. */
export function printProxy(proxy: ConnectedProxy, index: number, nowMs: number): void {
  if (index > 0) print('');
  const { counts: _, omitted, connected, ...facts } = proxyDocument(proxy);
  printRecord({ ...facts, connected: connected ? 'yes' : 'no: it has left' }, 'table');
  print('');
  if (proxy.secrets.length === 0) print('It asks for no secrets.');
  else
    printRows(
      proxy.secrets.map((secret) => secretRow(secret, nowMs)),
      secretColumns,
      'table',
    );
  for (const [nextStep, secrets] of Map.groupBy(proxy.secrets, (secret) => secret.nextStep)) {
    if (nextStep === '') continue;
    print('');
    for (const secret of secrets) print(text(complaint(secret, nowMs)));
    print(`  → ${text(nextStep)}`);
  }
  for (const [what, count] of Object.entries(omitted))
    if (count > 0) print(`\n${count} more ${what} not shown`);
}

const secretColumns = ['name', 'kind', 'state', 'sent', 'acknowledged', 'refused', 'age', 'bytes'];

function secretRow({ name, kind, state, sent, acknowledged, refused }: ProxySecret, nowMs: number): Row {
  return {
    name,
    kind: kind ?? '',
    state,
    sent: sent?.version ?? '',
    acknowledged: acknowledged?.version ?? '',
    refused: refused?.version ?? '',
    age: sent === undefined ? '' : ageText(nowMs - sent.atMs),
    bytes: sent?.bytes ?? '',
  };
}

function complaint({ name, state, held, refused, sent }: ProxySecret, nowMs: number): string {
  if (refused !== undefined) {
    return `${name}: refused ${ageText(nowMs - refused.atMs)} ago, version ${refused.version}: ${refused.error}`;
  }
  if (held !== '') return `${name}: held: ${held}`;
  return `${name}: ${state}: no answer for ${ageText(nowMs - (sent?.atMs ?? nowMs))}`;
}

function sum({ counts }: ConnectedProxy): number {
  return Object.values(counts).reduce((all, count) => all + count, 0);
}

function timeText(ms: number | undefined): string {
  return ms === undefined ? '' : new Date(ms).toISOString();
}

/** Since when, in the largest unit that fits: `59s`, `3m`, `5h`, `12d`. */
function ageText(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}
