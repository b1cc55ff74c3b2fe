import { z } from 'zod';

/** Settings of the `unix` workload attestor. */
export const unixConfig = z.strictObject({
  hashExecutable: z
    .boolean()
    .default(true)
    .describe("Whether to read callers' programs for the selector `unix:sha256`."),
  maxExecutableBytes: z
    .int()
    .min(1)
    .default(268_435_456)
    .describe('Programs larger than this get no `unix:sha256` selector, in bytes.'),
});

/** Checked settings of the `unix` workload attestor. */
export type UnixConfig = z.output<typeof unixConfig>;
