import { existsSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import { AdminClient } from '../clients/admin/admin-client.ts';
import { unixChannel } from '../rpc/grpc-client.ts';
import { findDurationMs } from '../runtime/config-file.ts';
import { AppError, errorText } from '../runtime/error.ts';
import type { OutputFormat } from './output.ts';
import { withRemoteServer } from './remote-server.ts';

/** Default sockets, as in the default configurations. */
export const defaultServerSocket = '/run/signet/server/admin.sock';
export const defaultAgentAdminSocket = '/run/signet/agent-admin/admin.sock';
export const defaultWorkloadSocket = '/run/signet/agent/api.sock';

/** Thrown for a wrong call that the parser cannot see: exit code 2. */
export class WrongUsage extends Error {}

/** A command with our conventions: an example in its help, errors that exit with 2. `call` is such as `show <id>`. */
export function command(call: string, summary: string, example: string): Command {
  const [name = '', ...parameters] = call.split(' ');
  const created = withConventions(new Command(name))
    .description(summary)
    .addHelpText('after', `\nExample:\n  ${example.split('\n').join('\n  ')}`);
  for (const parameter of parameters) created.argument(parameter);
  return created;
}

/** A noun with verbs below it; alone it prints its help. */
export function noun(name: string, summary: string, verbs: readonly Command[]): Command {
  return withVerbs(withConventions(new Command(name)).description(summary), verbs);
}

/** Puts commands below `group`: without one of them it prints its help, with another word it says what there is. */
export function withVerbs(group: Command, verbs: readonly Command[]): Command {
  for (const verb of verbs) group.addCommand(verb);
  return group.allowExcessArguments().action(() => {
    const [word] = group.args;
    if (word === undefined) group.help();
    const known = verbs.map((verb) => verb.name()).join(', ');
    group.error(`error: unknown command "${word}"; expected one of ${known}`);
  });
}

/** Exits by exceptions, and says errors as `signet: …`. */
export function withConventions(target: Command): Command {
  return target
    .allowExcessArguments(false)
    .showHelpAfterError('(add --help for help)')
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error:/, 'signet:')) })
    .exitOverride();
}

/** `--output`, `--quiet`, `--socket`, `--server` as every administration command has them. */
export function withServerOptions(target: Command): Command {
  return withOutput(target)
    .addOption(
      new Option('--socket <path>', "the server's admin socket")
        .env('SIGNET_SERVER_SOCKET')
        .default(defaultServerSocket),
    )
    .option('--server <host:port>', 'a remote server instead; needs an SVID with administrator rights');
}

export function withOutput(target: Command): Command {
  return target
    .addOption(
      new Option('-o, --output <format>', 'how to print').choices(['table', 'json', 'yaml']).default('table'),
    )
    .option('-q, --quiet', 'print the ID only');
}

export interface ServerOptions {
  readonly socket: string;
  readonly server?: string;
  readonly output: OutputFormat;
  readonly quiet?: boolean;
}

/** Runs `work` with a client on the server's admin socket; says what to do when nobody is there. */
export async function withServer<T>(
  options: { readonly socket: string; readonly server?: string },
  work: (client: AdminClient, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const signal = interruption();
  const workloadSocket = defaultWorkloadSocket;
  if (options.server !== undefined) return withRemoteServer(options.server, { workloadSocket, signal }, work);
  requireSocket(
    options.socket,
    'server',
    '--socket PATH or SIGNET_SERVER_SOCKET',
    'signet server run --config server.yaml',
  );
  const channel = unixChannel(options.socket);
  try {
    return await work(new AdminClient(channel), signal);
  } finally {
    channel.close();
  }
}

/** Throws `unavailable` with the next command when there is no socket at `path`. */
export function requireSocket(path: string, role: string, how: string, start: string): void {
  if (existsSync(path)) return;
  throw new AppError(
    'unavailable',
    `no ${role} socket at "${path}"; name the right one with ${how}, or start the ${role}: ${start}`,
  );
}

/** The server's refusal about `what`; when there is no such thing, with the command that shows what there is. */
export function refusalOf(what: string, error: AppError, list: string): AppError {
  const next = error.code === 'not-found' ? `; see \`${list}\`` : '';
  return new AppError(error.code, `${what}: ${error.message}${next}`);
}

/** Ends a command of which some parts were refused, with all that was said and the exit code of the first. */
export function throwRefusals([first, ...others]: readonly AppError[]): void {
  if (first === undefined) return;
  const all = [first, ...others].map(({ message }) => message).join('\nsignet: ');
  throw new AppError(first.code, all);
}

let interrupted: AbortSignal | undefined;

/** Aborts at the first Ctrl-C or SIGTERM; a second one ends the process at once. */
export function interruption(): AbortSignal {
  if (interrupted !== undefined) return interrupted;
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort();
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  interrupted = controller.signal;
  return interrupted;
}

/** Parses a duration option into seconds. */
export function seconds(text: string): number {
  const ms = findDurationMs(text);
  if (ms === undefined || ms < 1000) {
    throw new InvalidArgumentError('expected a duration such as 90s, 15m, 24h or 7d');
  }
  return Math.floor(ms / 1000);
}

/** Parses an RFC 3339 time option into Unix seconds. */
export function moment(text: string): number {
  const [, day = ''] = momentForm.exec(text) ?? [];
  const ms = isDay(day) ? Date.parse(text) : Number.NaN;
  // 0 would mean never.
  if (Number.isNaN(ms) || ms < 1000) {
    throw new InvalidArgumentError(
      'expected a time such as 2027-01-31T12:00:00Z or 2027-01-31T13:00:00+01:00',
    );
  }
  return Math.floor(ms / 1000);
}

/** Without an offset a time would depend on the machine it is read on. */
const momentForm = /^(\d{4}-\d\d-\d\d)T\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)$/;

/** Date.parse alone takes February 30 for March 2. */
function isDay(text: string): boolean {
  const ms = Date.parse(text);
  return !Number.isNaN(ms) && new Date(ms).toISOString().startsWith(text);
}

/** Has an option's value parsed with an error that counts as wrong usage. */
export function parsedBy<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      throw new InvalidArgumentError(errorText(error));
    }
  };
}

/** As `parsedBy`, for an option that may be given several times. */
export function several<T>(
  parse: (text: string) => T,
): (text: string, before: readonly T[] | false | undefined) => readonly T[] {
  const parseOne = parsedBy(parse);
  return (text, before) => [...(before || []), parseOne(text)];
}
