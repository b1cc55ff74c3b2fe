import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { agentConfigSchema } from '../agent/config.ts';
import { AdminClient } from '../clients/admin/admin-client.ts';
import { unixChannel } from '../rpc/grpc-client.ts';
import { parseConfig } from '../runtime/config-file.ts';
import { createLogger, type Logger } from '../runtime/log.ts';
import { writePrivateFile } from '../runtime/private-file.ts';
import { serverConfigSchema } from '../server/config.ts';
import type { ServerAddresses } from '../server/server.ts';
import { command, interruption } from './command.ts';
import { envoySnippet } from './dev-snippet.ts';
import { print, remark } from './output.ts';
import { serveWorkloads } from './run-agent.ts';
import { serve } from './run-server.ts';

interface DevOptions {
  readonly trustDomain: string;
  readonly dir?: string;
  readonly verbose?: boolean;
}

/** `signet dev`: server and agent in one process, in a directory that is gone afterwards. */
export function devCommand(): Command {
  return command('dev', 'server and agent in one process, for trying out', 'signet dev')
    .option('--trust-domain <name>', 'name of the trust domain', 'example.org')
    .option('--dir <path>', 'keep sockets and data here; default: a temporary directory, removed at the end')
    .option('--verbose', 'show the logs of server and agent')
    .action(async (options: DevOptions) => {
      const dir = resolve(options.dir ?? (await mkdtemp(join(tmpdir(), 'signet-dev-'))));
      const isNew = options.dir === undefined || (await mkdir(dir, { recursive: true })) !== undefined;
      // Envoys of other users must get to the workload socket; what is private lies in directories of its own.
      if (isNew) await chmod(dir, 0o711);
      try {
        await runBoth(dir, options);
      } finally {
        if (options.dir === undefined) await rm(dir, { recursive: true, force: true });
      }
    });
}

async function runBoth(dir: string, options: DevOptions): Promise<void> {
  const log = createLogger({ level: options.verbose ? 'debug' : 'warn', format: 'pretty' });
  // One of them failing ends the other; Ctrl-C ends both.
  const failed = new AbortController();
  const signal = AbortSignal.any([interruption(), failed.signal]);
  const adminSocket = join(dir, 'server', 'admin.sock');
  const started = Promise.withResolvers<ServerAddresses>();
  const server = serve(
    parseConfig(
      { trustDomain: options.trustDomain, dataDir: join(dir, 'server'), listen: '127.0.0.1:0', adminSocket },
      serverConfigSchema,
      'signet dev: server',
    ),
    'signet dev: server',
    { signal, log: log.child({ role: 'server' }), onReady: started.resolve },
  ).catch((error: unknown) => {
    failed.abort();
    started.reject(error);
    throw error;
  });
  const agent = started.promise.then((at) =>
    joinAgent(dir, options, at, { signal, log: log.child({ role: 'agent' }) }),
  );
  agent.catch(() => failed.abort());
  const outcomes = await Promise.allSettled([server, agent]);
  const failure = outcomes.find((outcome) => outcome.status === 'rejected');
  if (failure !== undefined) throw failure.reason;
}

async function joinAgent(
  dir: string,
  options: DevOptions,
  at: ServerAddresses,
  run: { readonly signal: AbortSignal; readonly log: Logger },
): Promise<void> {
  const channel = unixChannel(at.adminSocket);
  const client = new AdminClient(channel);
  const bundleFile = join(dir, 'bundle.pem');
  const tokenFile = join(dir, 'join-token');
  try {
    await writePrivateFile(bundleFile, (await client.bundles.getOwn({ signal: run.signal })).toPem(), 0o644);
    await writePrivateFile(
      tokenFile,
      (await client.agents.createJoinToken({ ttlSeconds: 60, signal: run.signal })).value,
    );
  } finally {
    channel.close();
  }
  const workloadSocket = join(dir, 'agent', 'api.sock');
  const config = parseConfig(
    {
      trustDomain: options.trustDomain,
      dataDir: join(dir, 'agent-data'),
      server: at.listen,
      trustBundle: { file: bundleFile },
      workloadSocket,
      adminSocket: join(dir, 'agent-admin', 'admin.sock'),
      nodeAttestor: { join_token: { tokenFile } },
      syncInterval: '1s',
    },
    agentConfigSchema,
    'signet dev: agent',
  );
  await serveWorkloads(config, 'signet dev: agent', {
    ...run,
    onReady: () => introduce(dir, options, at, workloadSocket),
  });
}

/** What a newcomer needs next, to copy. */
function introduce(dir: string, options: DevOptions, at: ServerAddresses, workloadSocket: string): void {
  const uid = process.getuid?.() ?? 0;
  print(`Signet is running for trust domain ${options.trustDomain}. Ctrl-C ends it${options.dir ? '' : ' and removes everything'}.

  workload socket   ${workloadSocket}
  admin socket      ${at.adminSocket}

In another terminal, give the processes of this user an identity and look at it:

${pathLine()}  export SIGNET_SERVER_SOCKET=${at.adminSocket}
  export SPIFFE_ENDPOINT_SOCKET=unix://${workloadSocket}
  signet entry create --spiffe-id spiffe://${options.trustDomain}/web --selector unix:uid:${uid}
  signet workload x509 --watch

In an Envoy configuration:

${envoySnippet(workloadSocket)}`);
  remark(`signet: data in ${dir}`);
}

/** From a checkout nobody has `signet` in the search path yet. */
function pathLine(): string {
  const bin = fileURLToPath(new URL('../../bin', import.meta.url));
  const isKnown = (process.env['PATH'] ?? '').split(delimiter).some((dir) => existsSync(join(dir, 'signet')));
  return isKnown ? '' : `  export PATH=${bin}:$PATH\n`;
}
