import { join } from 'node:path';
import type { KeyManagerContext } from '../plugin-api/key-manager.ts';
import { keyManagers, upstreamAuthorities } from '../plugins/builtin.ts';
import { AppError } from '../runtime/error.ts';
import { ensurePrivateDirectory } from '../runtime/private-file.ts';
import type { UpstreamParts } from '../server/authority/open-authority.ts';
import { findLocalRoot, type ServerConfig } from '../server/config.ts';
import { choosePlugin } from './plugins.ts';

/** Who stands above the signing certificates, as chosen by a configuration and not made yet. */
export interface ChosenUpstream {
  create(context: KeyManagerContext): Promise<OpenUpstream>;
}

/** Made. */
export interface OpenUpstream {
  readonly parts: UpstreamParts;
  close(): Promise<void>;
}

/** Checks the section `upstreamAuthority`, without creating anything; undefined: there is none. Throws `invalid-argument`. */
export function chooseUpstream(config: ServerConfig, where: string): ChosenUpstream | undefined {
  const { upstreamAuthority } = config;
  if (upstreamAuthority === undefined) return undefined;
  if (Object.hasOwn(upstreamAuthority, 'local_root')) return chooseLocalRoot(config, where);
  const [name = ''] = Object.keys(upstreamAuthority);
  if (!upstreamAuthorities.some((definition) => definition.name === name)) {
    const known = ['local_root', ...upstreamAuthorities.map((definition) => definition.name)].join(', ');
    throw new AppError(
      'invalid-argument',
      `${where}: upstreamAuthority: unknown plugin "${name}"; expected one of ${known}`,
    );
  }
  const chosen = choosePlugin(upstreamAuthority, upstreamAuthorities, `${where}: upstreamAuthority`);
  const { nameConstraints } = config.authority;
  return {
    async create(context) {
      const authority = await chosen.create({ ...context, nameConstraints });
      return { parts: { kind: 'plugin', name, authority }, close: async () => undefined };
    },
  };
}

function chooseLocalRoot(config: ServerConfig, where: string): ChosenUpstream | undefined {
  const root = findLocalRoot(config, where);
  if (root === undefined) return undefined;
  const at = `${where}: upstreamAuthority.local_root.keyManager`;
  const chosen = choosePlugin(root.keyManager, keyManagers, at);
  return {
    async create(context) {
      // A directory of its own: what the root's key manager keeps there is no business of the other's.
      const dataDir = join(context.dataDir, 'root');
      await ensurePrivateDirectory(dataDir);
      const keyManager = await chosen.create({ ...context, dataDir });
      return {
        parts: { kind: 'local-root', config: root, keyManager },
        close: async () => keyManager.close?.(),
      };
    },
  };
}
