import { type Command, Option } from 'commander';
import { hashJoinToken, joinTokenAgentPath } from '../plugins/node-attestor/join-token.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import {
  command,
  noun,
  parsedBy,
  type ServerOptions,
  seconds,
  withServer,
  withServerOptions,
} from './command.ts';
import { print, printRecord } from './output.ts';

/** `signet token`: one-time join tokens for agents. */
export function tokenCommand(): Command {
  const create = withServerOptions(
    command(
      'create',
      'make a one-time join token for an agent and print it',
      'signet token create --ttl 10m > /run/signet/token',
    ),
  )
    .addOption(
      new Option('--ttl <duration>', 'how long the token may be redeemed')
        .argParser(seconds)
        .default(600, '10m'),
    )
    .option(
      '--spiffe-id <id>',
      'also give the agent this ID as an alias, to use as parent of entries',
      parsedBy(SpiffeId.parse),
    )
    .action(async (options: ServerOptions & { ttl: number; spiffeId?: SpiffeId }) => {
      await withServer(options, async (client, signal) => {
        const token = await client.agents.createJoinToken({
          ttlSeconds: options.ttl,
          agentId: options.spiffeId,
          signal,
        });
        if (options.output === 'table') return print(token.value);
        const { trustDomain } = await client.bundles.getOwn({ signal });
        printRecord(
          {
            token: token.value,
            expiresAt: new Date(token.expiresAt * 1000).toISOString(),
            // The parent for this agent's entries.
            agentId: `${trustDomain.id}${joinTokenAgentPath(hashJoinToken(token.value))}`,
          },
          options.output,
        );
      });
    });
  return noun('token', 'one-time join tokens for agents', [create]);
}
