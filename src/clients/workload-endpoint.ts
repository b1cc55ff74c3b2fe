import { isIP } from 'node:net';
import { type ClientChannel, plainTcpChannel, unixChannel } from '../rpc/grpc-client.ts';
import { AppError } from '../runtime/error.ts';

/** Where the Workload API is: a Unix socket's path, or `IP:PORT`. */
export type WorkloadEndpoint = { readonly unix: string } | { readonly tcp: string };

const variable = 'SPIFFE_ENDPOINT_SOCKET';

/**
 * Parses the address of a Workload Endpoint, such as `unix:///run/signet/agent/api.sock` or `tcp://127.0.0.1:8000`
 * (SPIFFE Workload Endpoint §4). Throws `invalid-argument`.
 */
export function parseWorkloadEndpoint(text: string): WorkloadEndpoint {
  if (text.startsWith('unix:')) return { unix: unixPath(text) };
  if (text.startsWith('tcp:')) return { tcp: tcpAddress(text) };
  throw invalid(text, 'the scheme must be "unix" or "tcp"');
}

/** The address given, else the one in SPIFFE_ENDPOINT_SOCKET; throws `invalid-argument` when there is neither. */
export function findWorkloadEndpoint(
  address: string | undefined,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): WorkloadEndpoint {
  if (address !== undefined) return parseWorkloadEndpoint(address);
  const found = environment[variable];
  if (found !== undefined && found !== '') return parseWorkloadEndpoint(found);
  throw new AppError('invalid-argument', `no Workload API address: name one, or set ${variable}`);
}

/** A channel to the endpoint, without TLS (SPIFFE Workload Endpoint §3). */
export function workloadChannel(endpoint: WorkloadEndpoint): ClientChannel {
  return 'unix' in endpoint ? unixChannel(endpoint.unix) : plainTcpChannel(endpoint.tcp);
}

function unixPath(text: string): string {
  const rest = text.slice('unix:'.length);
  const encoded = rest.startsWith('//') ? rest.slice(2) : rest;
  if (/[?#]/.test(encoded)) throw invalid(text, 'a query or fragment is not allowed');
  if (rest.startsWith('//') && !encoded.startsWith('/')) {
    throw invalid(text, 'an authority is not allowed; the path needs three slashes');
  }
  const path = decoded(text, encoded);
  if (!path.startsWith('/') || path === '/')
    throw invalid(text, 'the path must be absolute and name a socket');
  return path;
}

function decoded(text: string, encoded: string): string {
  try {
    const path = decodeURIComponent(encoded);
    if (!path.includes('\0')) return path;
  } catch {
    // A percent sign without two hex digits.
  }
  throw invalid(text, 'the path cannot be decoded');
}

function tcpAddress(text: string): string {
  const match = /^tcp:\/\/(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):(\d{1,5})$/.exec(text);
  const [, ipv6, ipv4, digits] = match ?? [];
  const port = Number(digits);
  const isAddress = ipv6 === undefined ? isIP(ipv4 ?? '') === 4 : isIP(ipv6) === 6;
  if (!isAddress || port < 1 || port > 65_535) {
    throw invalid(text, 'expected tcp://IP:PORT and nothing else; host names are not allowed');
  }
  return ipv6 === undefined ? `${ipv4}:${port}` : `[${ipv6}]:${port}`;
}

function invalid(text: string, rule: string): AppError {
  return new AppError('invalid-argument', `Workload API address ${JSON.stringify(text)}: ${rule}`);
}
