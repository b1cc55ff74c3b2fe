import type { Command } from 'commander';
import { runAgent } from '../agent/agent.ts';
import { parseSdsNames } from '../agent/api/sds-names.ts';
import { type AgentConfig, agentConfigSchema } from '../agent/config.ts';
import { agentKeyManagers, agentNodeAttestors, workloadAttestors } from '../plugins/builtin.ts';
import { KeyExchange } from '../rpc/key-exchange.ts';
import { availableIdentification } from '../rpc/peer-process.ts';
import { readConfigFile } from '../runtime/config-file.ts';
import { forbidCoreDumps } from '../runtime/core-dumps.ts';
import { AppError } from '../runtime/error.ts';
import type { Logger } from '../runtime/log.ts';
import { loggerOf } from '../runtime/log-settings.ts';
import { ensurePrivateDirectory, lockDirectory } from '../runtime/private-file.ts';
import { logProcessWarnings } from '../runtime/process-warnings.ts';
import { systemClock } from '../runtime/time.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { command, interruption } from './command.ts';
import { print } from './output.ts';
import { choosePlugin, choosePlugins, createAll } from './plugins.ts';

/** `signet agent run`. */
export function runCommand(): Command {
  return command('run', 'run the agent until it is stopped', 'signet agent run --config agent.yaml')
    .requiredOption('--config <file>', 'the configuration file')
    .action(async (options: { config: string }) => {
      forbidCoreDumps();
      const config = await readConfigFile(options.config, agentConfigSchema);
      const log = loggerOf(config.log);
      logProcessWarnings({ log, clock: systemClock });
      await serveWorkloads(config, options.config, { signal: interruption(), log });
    });
}

/** `signet agent check`. */
export function checkCommand(): Command {
  return command(
    'check',
    'check a configuration and say what is wrong',
    'signet agent check --config agent.yaml',
  )
    .requiredOption('--config <file>', 'the configuration file')
    .action(async (options: { config: string }) => {
      const config = await readConfigFile(options.config, agentConfigSchema);
      const { keyExchange } = choose(config, options.config);
      print(`${options.config}: ok: agent of ${config.trustDomain}, server ${config.server}, ${keyExchange}`);
    });
}

/** Builds the agent's parts from their plugins and runs it. */
export async function serveWorkloads(
  config: AgentConfig,
  where: string,
  options: { readonly signal: AbortSignal; readonly log: Logger; readonly onReady?: () => void },
): Promise<void> {
  requireLinux();
  const { log } = options;
  const chosen = choose(config, where);
  const trustDomain = TrustDomain.parse(config.trustDomain);
  const identification = availableIdentification();
  if (config.requirePeerPidfd && identification !== 'SO_PEERPIDFD') {
    throw new AppError(
      'failed-precondition',
      'requirePeerPidfd: this kernel has no SO_PEERPIDFD; it came with Linux 6.5, or set requirePeerPidfd: false',
    );
  }
  await ensurePrivateDirectory(config.dataDir);
  const lock = await lockDirectory(config.dataDir);
  try {
    const context = { trustDomain, dataDir: config.dataDir, clock: systemClock, log };
    await runAgent(
      config,
      {
        trustDomain,
        attestorType: chosen.nodeAttestor.name,
        attestor: await chosen.nodeAttestor.create(context),
        keyManager: await chosen.keyManager.create(context),
        workloadAttestors: await createAll(chosen.workloadAttestors, context),
        peerIdentification: identification,
        clock: systemClock,
        log,
      },
      {
        signal: options.signal,
        onReady: () => {
          log.info({ workloadSocket: config.workloadSocket, trustDomain: trustDomain.name }, 'agent ready');
          options.onReady?.();
        },
      },
    );
    log.info({}, 'agent stopped');
  } finally {
    await lock.release();
  }
}

function requireLinux(): void {
  if (process.platform === 'linux') return;
  throw new AppError(
    'unimplemented',
    `the agent runs on Linux only: it asks the kernel who calls, and ${process.platform} has no such answer`,
  );
}

/** Finds everything that is wrong with a configuration before anything is started. */
function choose(config: AgentConfig, where: string) {
  TrustDomain.parse(config.trustDomain);
  parseSdsNames(config.sds, `${where}: sds`);
  return {
    keyExchange: new KeyExchange(config.tls.postQuantum),
    nodeAttestor: choosePlugin(config.nodeAttestor, agentNodeAttestors, `${where}: nodeAttestor`),
    keyManager: choosePlugin(config.keyManager, agentKeyManagers, `${where}: keyManager`),
    workloadAttestors: choosePlugins(
      config.workloadAttestors,
      workloadAttestors,
      `${where}: workloadAttestors`,
    ),
  };
}
