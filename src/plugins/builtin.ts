import { z } from 'zod';
import type { DataStore } from '../plugin-api/data-store.ts';
import type { KeyManager, KeyManagerDefinition } from '../plugin-api/key-manager.ts';
import type {
  AgentNodeAttestor,
  ServerNodeAttestor,
  ServerNodeAttestorContext,
} from '../plugin-api/node-attestor.ts';
import type { PluginContext, PluginDefinition } from '../plugin-api/plugin.ts';
import type { UpstreamAuthority, UpstreamAuthorityContext } from '../plugin-api/upstream-authority.ts';
import type { WorkloadAttestor } from '../plugin-api/workload-attestor.ts';
import { pkcs11Config } from './key-manager/pkcs11-config.ts';
import { joinTokenAgentConfig } from './node-attestor/join-token-config.ts';
import { x509popAgentConfig, x509popServerConfig } from './node-attestor/x509pop-config.ts';
import { diskUpstreamConfig } from './upstream-authority/disk-config.ts';
import { unixConfig } from './workload-attestor/unix-config.ts';

/** Lets each definition keep the type of its own settings and still stand in a table with others. */
function plugin<Config, Instance, Context extends PluginContext = PluginContext>(
  definition: PluginDefinition<Config, Instance, Context>,
): PluginDefinition<unknown, Instance, Context> {
  return {
    name: definition.name,
    configSchema: definition.configSchema,
    // Only what the definition's own schema has returned may be handed to its `create`.
    create: (config, context) => definition.create(config as Config, context),
  };
}

/** As `plugin`, for key managers of servers. */
function keyManager<Config>(definition: KeyManagerDefinition<Config>): KeyManagerDefinition<unknown> {
  return {
    ...plugin(definition),
    check: (config, context, type) => definition.check(config as Config, context, type),
  };
}

const noSettings = z.strictObject({});

/** Where the server keeps what must not be lost. */
export const dataStores: readonly PluginDefinition<unknown, DataStore>[] = [
  plugin({
    name: 'sqlite',
    configSchema: noSettings,
    create: async (_config, context) => (await import('./data-store/sql-store.ts')).openSqliteStore(context),
  }),
];

const disk = {
  name: 'disk',
  configSchema: noSettings,
  create: async (_config: object, context: PluginContext) =>
    (await import('./key-manager/disk.ts')).DiskKeyManager.open(context),
};
const memory = {
  name: 'memory',
  configSchema: noSettings,
  create: async () => new (await import('./key-manager/memory.ts')).MemoryKeyManager(),
};

/** Where an agent keeps its private keys: TLS and its workloads need them as they are. */
export const agentKeyManagers: readonly PluginDefinition<unknown, KeyManager>[] = [
  plugin(disk),
  plugin(memory),
];

/** Where a server keeps its private keys. */
export const keyManagers: readonly KeyManagerDefinition<unknown>[] = [
  keyManager({
    ...disk,
    check: async (_config, { dataDir }, type) =>
      (await import('./key-manager/check.ts')).checkSoftwareKeys(`directory "${dataDir}/keys"`, type),
  }),
  keyManager({
    ...memory,
    check: async (_config, _context, type) =>
      (await import('./key-manager/check.ts')).checkSoftwareKeys('keys end with the process', type),
  }),
  keyManager({
    name: 'pkcs11',
    configSchema: pkcs11Config,
    create: async (config, context) =>
      (await import('./key-manager/pkcs11.ts')).Pkcs11KeyManager.open(config, context),
    check: async (config, context, type) =>
      (await import('./key-manager/check.ts')).checkToken(config, context, type),
  }),
];

/** How an agent proves which node it runs on. */
export const agentNodeAttestors: readonly PluginDefinition<unknown, AgentNodeAttestor>[] = [
  plugin({
    name: 'join_token',
    configSchema: joinTokenAgentConfig,
    create: async (config) =>
      new (await import('./node-attestor/join-token.ts')).JoinTokenAgentAttestor(config),
  }),
  plugin({
    name: 'x509pop',
    configSchema: x509popAgentConfig,
    create: async (config) => new (await import('./node-attestor/x509pop.ts')).X509popAgentAttestor(config),
  }),
];

/** How the server checks such a proof; each has its agent half above under the same name. */
export const serverNodeAttestors: readonly PluginDefinition<
  unknown,
  ServerNodeAttestor,
  ServerNodeAttestorContext
>[] = [
  plugin({
    name: 'join_token',
    configSchema: noSettings,
    create: async (_config, context: ServerNodeAttestorContext) =>
      new (await import('./node-attestor/join-token.ts')).JoinTokenServerAttestor(context),
  }),
  plugin({
    name: 'x509pop',
    configSchema: x509popServerConfig,
    create: async (config, context: ServerNodeAttestorContext) =>
      (await import('./node-attestor/x509pop.ts')).X509popServerAttestor.open(config, context),
  }),
];

/** Who may stand above the server's signing certificates, besides a root of its own (`local_root`). */
export const upstreamAuthorities: readonly PluginDefinition<
  unknown,
  UpstreamAuthority,
  UpstreamAuthorityContext
>[] = [
  plugin({
    name: 'disk',
    configSchema: diskUpstreamConfig,
    create: async (config, context: UpstreamAuthorityContext) =>
      (await import('./upstream-authority/disk.ts')).DiskUpstreamAuthority.open(config, context),
  }),
];

/** What an agent can find out about a process that calls it. */
export const workloadAttestors: readonly PluginDefinition<unknown, WorkloadAttestor>[] = [
  plugin({
    name: 'unix',
    configSchema: unixConfig,
    create: async (config, context) =>
      new (await import('./workload-attestor/unix.ts')).UnixWorkloadAttestor(context, config),
  }),
];
