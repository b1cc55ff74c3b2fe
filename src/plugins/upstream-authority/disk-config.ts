import { z } from 'zod';

const path = z.string().min(1);

/** Settings of `upstreamAuthority: { disk: … }`. */
export const diskUpstreamConfig = z.strictObject({
  certFile: path.describe(
    'PEM file with the CA certificate that signs ours, and after it any intermediates above it. Read again when it changes.',
  ),
  keyFile: path.describe(
    'PEM file with its private key, not encrypted; only the server may read it (0600). Read again when it changes.',
  ),
  bundleFile: path
    .optional()
    .describe(
      'PEM file with the roots that belong in the trust bundle, all self-signed. May be left out when `certFile` holds its root. Read again when it changes.',
    ),
});

/** Checked settings. */
export type DiskUpstreamConfig = z.output<typeof diskUpstreamConfig>;
