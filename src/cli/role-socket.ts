import { existsSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { type ClientChannel, unixChannel } from '../rpc/grpc-client.ts';
import { AppError, isAppError } from '../runtime/error.ts';
import {
  defaultAgentAdminSocket,
  defaultServerSocket,
  interruption,
  requireSocket,
  WrongUsage,
} from './command.ts';

/** Which process of this host is meant, for commands that both roles have. */
export interface RoleOptions {
  readonly role?: 'server' | 'agent';
  readonly socket?: string;
}

/** `--role` and `--socket`. */
export function withRoleOptions(target: Command): Command {
  return target
    .addOption(new Option('--role <role>', 'needed only when both run here').choices(['server', 'agent']))
    .option('--socket <path>', "the role's admin socket");
}

/** Runs `work` with a channel to the admin socket that is meant; says what to do when nobody is there. */
export async function withRole<T>(
  options: RoleOptions,
  work: (channel: ClientChannel, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const socket = options.socket ?? findSocket(options.role);
  requireSocket(
    socket,
    'server or agent',
    '--socket PATH',
    'signet server run --config server.yaml, signet agent run --config agent.yaml',
  );
  const channel = unixChannel(socket);
  try {
    return await work(channel, interruption());
  } finally {
    channel.close();
  }
}

/** What commands take that only an agent's admin socket answers. */
export interface AgentAdminOptions {
  readonly socket: string;
}

/** `--role` and `--socket` of commands for which the role is the agent. */
export function withAgentAdminOptions(target: Command): Command {
  return target
    .addOption(new Option('--role <role>', 'whose proxies; those of the agent').choices(['agent']))
    .addOption(
      new Option('--socket <path>', "the agent's admin socket")
        .env('SIGNET_AGENT_ADMIN_SOCKET')
        .default(defaultAgentAdminSocket),
    );
}

/** Runs `work` with a channel to the agent's admin socket; says what to do when no agent answers there. */
export async function withAgentAdmin<T>(
  { socket }: AgentAdminOptions,
  work: (channel: ClientChannel, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const how = '--socket PATH or SIGNET_AGENT_ADMIN_SOCKET';
  requireSocket(socket, 'agent', how, 'signet agent run --config agent.yaml');
  const channel = unixChannel(socket);
  try {
    return await work(channel, interruption());
  } catch (error) {
    if (!isAppError(error, 'unimplemented')) throw error;
    throw new AppError(
      'unimplemented',
      `"${socket}" is no admin socket of an agent, or of an older one; name the right one with ${how}`,
    );
  } finally {
    channel.close();
  }
}

function findSocket(role: 'server' | 'agent' | undefined): string {
  const sockets = {
    server: process.env['SIGNET_SERVER_SOCKET'] ?? defaultServerSocket,
    agent: process.env['SIGNET_AGENT_ADMIN_SOCKET'] ?? defaultAgentAdminSocket,
  };
  if (role !== undefined) return sockets[role];
  const found = Object.values(sockets).filter((path) => existsSync(path));
  if (found.length > 1) {
    throw new WrongUsage('a server and an agent run here: add --role server or --role agent');
  }
  return found[0] ?? sockets.agent;
}
