import { z } from 'zod';

/** Settings of the agent half. None is needed any more once the agent has joined. */
export const joinTokenAgentConfig = z
  .strictObject({
    token: z.string().min(1).optional().describe('The join token that `signet token create` printed.'),
    tokenFile: z
      .string()
      .min(1)
      .optional()
      .describe('A file that holds the join token; better than `token`, which stays in this file.'),
  })
  .refine(({ token, tokenFile }) => token === undefined || tokenFile === undefined, {
    error: 'expected token or tokenFile, not both',
  });

/** Checked settings of the agent half. */
export type JoinTokenAgentConfig = z.output<typeof joinTokenAgentConfig>;
