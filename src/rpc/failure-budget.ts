import { isIPv6 } from 'node:net';
import type { Clock } from '../runtime/time.ts';
import { TokenBuckets } from './token-buckets.ts';

/**
 * What an address from which nobody has proved an identity may do wrong: a bucket that only failures are charged to,
 * so that any number of honest agents behind one address get in. IPv6 is counted by /64, of which anybody has a whole
 * one.
 */
export class FailureBudget {
  readonly #buckets: TokenBuckets;

  /** A rate of 0 does not limit. */
  constructor(clock: Clock, options: { readonly perMinute: number }) {
    const { perMinute } = options;
    this.#buckets = new TokenBuckets(clock, { perSecond: perMinute / 60, burst: perMinute });
  }

  /** Notes a failure; `address` is `HOST:PORT`. */
  charge(address: string): void {
    this.#buckets.spend(networkOf(address));
  }

  /** After how many ms the address may try again; 0 = now. */
  waitMs(address: string): number {
    return this.#buckets.waitMs(networkOf(address));
  }
}

/** `[2001:db8:1:2:3::4]:5` → `2001:db8:1:2`, `[::ffff:10.0.0.1]:5` and `10.0.0.1:5` → `10.0.0.1`. */
function networkOf(address: string): string {
  const host = address.slice(0, Math.max(0, address.lastIndexOf(':'))).replace(/^\[(.*)\]$/, '$1');
  const ipv4 = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(host)?.[1];
  if (ipv4 !== undefined) return ipv4;
  const plain = host.split('%')[0] ?? host;
  return isIPv6(plain) ? firstHalf(plain) : host;
}

/** The first four groups of an IPv6 address. */
function firstHalf(address: string): string {
  const [head = '', tail] = address.split('::');
  const groups = head === '' ? [] : head.split(':');
  const after = tail === undefined || tail === '' ? [] : tail.split(':');
  // An embedded IPv4 address stands for two groups, and is never in the first half.
  const tailLength = after.reduce((sum, group) => sum + (group.includes('.') ? 2 : 1), 0);
  const zeros = tail === undefined ? 0 : 8 - groups.length - tailLength;
  const all = [...groups, ...Array<string>(Math.max(0, zeros)).fill('0'), ...after];
  return all
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':');
}
