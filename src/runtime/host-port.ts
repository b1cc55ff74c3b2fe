import { isIP } from 'node:net';

/** A TCP address; the host of an IPv6 one is without its brackets. Port 0 stands for any free one. */
export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** What is expected where an address stands, for error texts. */
export const hostPortRule = 'expected HOST:PORT such as signet.internal:8081 or [::1]:8081';

/** Parses `HOST:PORT`, IPv6 hosts in brackets; undefined when it is none. */
export function findHostPort(text: string): HostPort | undefined {
  const [, bracketed, plain, digits] = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]/\s]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain;
  const port = Number(digits);
  if (host === undefined || port > 65_535) return undefined;
  return bracketed !== undefined && isIP(bracketed) !== 6 ? undefined : { host, port };
}
