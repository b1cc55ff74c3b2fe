import type { RegistrationEntry } from '../spiffe/registration-entry.ts';

type Lifetimes = readonly Pick<RegistrationEntry, 'x509SvidTtlSeconds'>[];

/**
 * What becomes of certificates that were issued for these entries before they were deleted or changed: nothing takes
 * them away, they end by themselves.
 */
export function heldCertificates(entries: Lifetimes, nowMs: number): string {
  const seconds = entries.map((entry) => entry.x509SvidTtlSeconds);
  // 0 is the server's default, which only the server knows.
  const latest = seconds.length === 0 || seconds.includes(0) ? undefined : Math.max(...seconds);
  const end =
    latest === undefined
      ? "one lifetime from now (the server's authority.x509SvidTtl: 1h unless it is set)"
      : new Date(nowMs + latest * 1000).toISOString();
  return `a running Envoy keeps the certificate it has until that expires: at the latest ${end}`;
}

/** Whether the change makes another certificate, or gives it to others. */
export function changesCertificates(before: RegistrationEntry, after: RegistrationEntry): boolean {
  const relevant = ({ spiffeId, parentId, selectors, dnsNames, x509SvidTtlSeconds }: RegistrationEntry) =>
    JSON.stringify([String(spiffeId), String(parentId), selectors, dnsNames, x509SvidTtlSeconds]);
  return relevant(before) !== relevant(after);
}
