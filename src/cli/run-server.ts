import type { Command } from 'commander';
import { dataStores, keyManagers, serverNodeAttestors } from '../plugins/builtin.ts';
import { createJoinToken } from '../plugins/node-attestor/join-token.ts';
import { KeyExchange } from '../rpc/key-exchange.ts';
import { readConfigFile } from '../runtime/config-file.ts';
import { forbidCoreDumps } from '../runtime/core-dumps.ts';
import type { Logger } from '../runtime/log.ts';
import { loggerOf } from '../runtime/log-settings.ts';
import { ensurePrivateDirectory, lockDirectory } from '../runtime/private-file.ts';
import { logProcessWarnings } from '../runtime/process-warnings.ts';
import { systemClock } from '../runtime/time.ts';
import type { StepObserver } from '../server/authority/journal-steps.ts';
import { checkServerConfig, type ServerConfig, serverConfigSchema } from '../server/config.ts';
import { runServer, type ServerAddresses } from '../server/server.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { command, interruption, noun } from './command.ts';
import { checkKeyManagers } from './key-manager-check.ts';
import { print, printRecord } from './output.ts';
import { choosePlugin, choosePlugins, createAll } from './plugins.ts';
import { chooseUpstream, type OpenUpstream } from './upstream.ts';

/** `signet server`: the server role. */
export function serverCommand(): Command {
  const run = command('run', 'run the server until it is stopped', 'signet server run --config server.yaml')
    .requiredOption('--config <file>', 'the configuration file')
    .action(async (options: { config: string }) => {
      forbidCoreDumps();
      const config = await readServerConfig(options.config);
      const log = loggerOf(config.log);
      logProcessWarnings({ log, clock: systemClock });
      await serve(config, options.config, { signal: interruption(), log });
    });
  const check = command(
    'check',
    'check a configuration, and that the key manager signs',
    'signet server check --config server.yaml',
  )
    .requiredOption('--config <file>', 'the configuration file')
    .option('--offline', 'look at the configuration only; do not open the key manager')
    .action(async (options: { config: string; offline?: boolean }) => {
      const config = await readServerConfig(options.config);
      const { keyExchange } = choose(config, options.config);
      const report = options.offline ? undefined : await checkKeyManagers(config, options.config);
      print(
        `${options.config}: ok: server of ${config.trustDomain}, listening on ${config.listen}, ${keyExchange}`,
      );
      if (report !== undefined) printRecord(report, 'table');
    });
  return noun('server', 'the server: attests nodes, keeps the registry, signs', [run, check]);
}

/** Builds the server's parts from their plugins and runs it. */
export async function serve(
  config: ServerConfig,
  where: string,
  options: {
    readonly signal: AbortSignal;
    readonly log: Logger;
    readonly onReady?: (at: ServerAddresses) => void;
    /** Told of each step of the authority's journal. */
    readonly onAuthorityStep?: StepObserver;
  },
): Promise<void> {
  const { log, onAuthorityStep = () => undefined } = options;
  const chosen = choose(config, where);
  const trustDomain = TrustDomain.parse(config.trustDomain);
  await ensurePrivateDirectory(config.dataDir);
  const lock = await lockDirectory(config.dataDir);
  try {
    const context = { trustDomain, dataDir: config.dataDir, clock: systemClock, log };
    const store = await chosen.dataStore.create(context);
    try {
      const keyContext = { ...context, keyNamespace: await store.serverId() };
      const keyManager = await chosen.keyManager.create(keyContext);
      let upstream: OpenUpstream | undefined;
      try {
        upstream = await chosen.upstream?.create(keyContext);
        const attestors = await createAll(chosen.nodeAttestors, { ...context, tokens: store.tokens });
        await runServer(
          config,
          {
            trustDomain,
            store,
            keyManager,
            upstream: upstream?.parts,
            onAuthorityStep,
            attestors,
            newJoinToken: () => createJoinToken().token,
            clock: systemClock,
            log,
          },
          {
            signal: options.signal,
            onReady: (addresses) => {
              log.info({ ...addresses, trustDomain: trustDomain.name }, 'server ready');
              options.onReady?.(addresses);
            },
          },
        );
      } finally {
        await upstream?.close();
        await keyManager.close?.();
      }
      log.info({}, 'server stopped');
    } finally {
      await store.close();
    }
  } finally {
    await lock.release();
  }
}

async function readServerConfig(path: string): Promise<ServerConfig> {
  const config = await readConfigFile(path, serverConfigSchema);
  checkServerConfig(config, path);
  return config;
}

function choose(config: ServerConfig, where: string) {
  return {
    keyExchange: new KeyExchange(config.tls.postQuantum),
    dataStore: choosePlugin(config.dataStore, dataStores, `${where}: dataStore`),
    keyManager: choosePlugin(config.keyManager, keyManagers, `${where}: keyManager`),
    upstream: chooseUpstream(config, where),
    nodeAttestors: choosePlugins(config.nodeAttestors, serverNodeAttestors, `${where}: nodeAttestors`),
  };
}
