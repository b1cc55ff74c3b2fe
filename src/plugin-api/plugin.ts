import { z } from 'zod';
import type { Logger } from '../runtime/log.ts';
import type { Clock } from '../runtime/time.ts';
import type { TrustDomain } from '../spiffe/spiffe-id.ts';

/** All that a plugin gets from its role, and nothing else. */
export interface PluginContext {
  readonly trustDomain: TrustDomain;
  /** The role's data directory, already private to it. */
  readonly dataDir: string;
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * One implementation behind a socket. `create` imports its code lazily: start-up and memory count. A socket that
 * gives its plugins more than the usual context says so in `Context`.
 */
export interface PluginDefinition<Config, Instance, Context extends PluginContext = PluginContext> {
  /** The name used in configuration and on the wire, such as `join_token`. */
  readonly name: string;
  readonly configSchema: z.ZodType<Config>;
  create(config: Config, context: Context): Promise<Instance>;
}

/** A section of a configuration that names exactly one plugin: `{ name: settings }`, parsed by that plugin's schema. */
export const onePlugin = z
  .record(z.string(), z.unknown())
  .refine((value) => Object.keys(value).length === 1, 'expected exactly one plugin');
