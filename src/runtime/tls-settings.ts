import { z } from 'zod';

/** What a side of a TLS connection does about post-quantum key exchange. */
export const postQuantumModes = ['prefer', 'require', 'off'] as const;

/** One of them. */
export type PostQuantum = (typeof postQuantumModes)[number];

/** The section `tls` of a role's configuration. */
export const tlsSettings = z
  .strictObject({
    postQuantum: z
      .enum(postQuantumModes)
      .default('prefer')
      .describe(
        'Key exchange between agents, administrators and the server: `prefer` offers hybrids of a classical and a post-quantum one first (X25519MLKEM768), then classical ones; `require` hybrids only; `off` classical ones only.',
      ),
  })
  .prefault({});
