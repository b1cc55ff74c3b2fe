import type { ProxyStatus, SecretStatus } from '../agent/proxy-book.ts';
import { testStartMs } from './certificates.ts';

/** Sent and acknowledged at the start, unless said otherwise. */
export function testSecret(fields: Partial<SecretStatus> = {}): SecretStatus {
  return {
    name: 'default',
    kind: 'certificate',
    streams: 1,
    sent: { version: '00000000000000aa', atMs: testStartMs, bytes: 2_048 },
    acknowledged: { version: '00000000000000aa', atMs: testStartMs + 1 },
    refused: undefined,
    held: undefined,
    isStalled: false,
    ...fields,
  };
}

/** Secrets in each of the states that are not well, by the name of the state. */
export const troubled = {
  pending: testSecret({ name: 'pending', acknowledged: undefined }),
  held: testSecret({
    name: 'held',
    sent: undefined,
    acknowledged: undefined,
    held: 'no registration entry',
  }),
  stalled: testSecret({ name: 'stalled', acknowledged: undefined, isStalled: true }),
  refused: testSecret({
    name: 'refused',
    refused: { version: '00000000000000bb', atMs: testStartMs, error: 'Failed to load private key' },
  }),
};

/** An Envoy with nothing to complain about, unless said otherwise. */
export function testProxy(fields: Partial<ProxyStatus> = {}): ProxyStatus {
  return {
    pid: 4711,
    uid: 1001,
    gid: 1002,
    selectors: ['unix:gid:1002', 'unix:uid:1001'],
    identities: ['spiffe://example.org/web'],
    node: { id: 'frontend-sidecar', cluster: 'frontend', version: 'envoy 1.40.0' },
    connectedAtMs: testStartMs,
    connections: 1,
    streams: 2,
    protocols: ['sotw'],
    secrets: [testSecret(), testSecret({ name: 'ALL', kind: 'trust' })],
    ...fields,
  };
}
