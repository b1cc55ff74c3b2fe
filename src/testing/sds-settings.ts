import { type AgentConfig, agentConfigSchema } from '../agent/config.ts';

/** The `sds` section of a configuration that says nothing about it. */
export const defaultSdsSettings: AgentConfig['sds'] = agentConfigSchema.shape.sds.parse(undefined);
