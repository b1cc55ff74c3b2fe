import type { DataStore } from '../../plugin-api/data-store.ts';
import type { KeyManager } from '../../plugin-api/key-manager.ts';
import type { UpstreamAuthority } from '../../plugin-api/upstream-authority.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import {
  authoritySubjectOf,
  type LocalRootConfig,
  rootTimesOf,
  type ServerConfig,
  signingTimesOf,
} from '../config.ts';
import { AuthorityAdministration } from './administration.ts';
import { Authority } from './authority.ts';
import { type Certifier, SelfCertifier, UpstreamCertifier } from './certifier.ts';
import { IssuedSvids } from './issued-svids.ts';
import type { StepObserver } from './journal-steps.ts';
import type { KeptBundle } from './kept-bundle.ts';
import { KeySlots } from './key-slots.ts';
import { LocalRoot } from './local-root.ts';
import { AuthorityRotation } from './rotation.ts';

/** Who stands above our signing certificates, as the composition root has built it. */
export type UpstreamParts =
  | { readonly kind: 'local-root'; readonly config: LocalRootConfig; readonly keyManager: KeyManager }
  | { readonly kind: 'plugin'; readonly name: string; readonly authority: UpstreamAuthority };

/** What the authority is built from. */
export interface AuthorityParts {
  readonly trustDomain: TrustDomain;
  readonly store: Pick<DataStore, 'authorities' | 'keys'>;
  readonly keyManager: KeyManager;
  /** Undefined: our signing certificates are roots. */
  readonly upstream?: UpstreamParts | undefined;
  /** Told of each step of the journal. */
  readonly onAuthorityStep?: StepObserver;
  readonly clock: Clock;
  readonly log: Logger;
}

/** The rooms of the authority, connected; nothing in them runs yet. */
export interface AuthorityRooms {
  readonly authority: Authority;
  readonly rotation: AuthorityRotation;
  readonly root: LocalRoot | undefined;
  readonly issued: IssuedSvids;
  readonly administration: AuthorityAdministration;
  /** `self-signed`, `local_root`, or the name of a plugin. */
  readonly topology: string;
  /** The keys of signing certificates, then those of roots. */
  readonly keys: readonly KeySlots[];
}

/** Connects the rooms of the authority in the topology that the configuration says. */
export function openAuthority(
  config: ServerConfig,
  parts: AuthorityParts,
  bundles: KeptBundle,
): AuthorityRooms {
  const { trustDomain, store, keyManager, upstream, clock, log } = parts;
  const { caKeyType, caTtl, nameConstraints } = config.authority;
  const onStep: StepObserver = (step, role) => {
    log.debug({ step, role }, 'authority journal step');
    parts.onAuthorityStep?.(step, role);
  };
  const journal = store.authorities;
  const common = { trustDomain, journal, bundles, onStep, clock, log };
  const slotParts = { journal: store.keys, clock, onStep };
  const root =
    upstream?.kind === 'local-root' ? openRoot(config, upstream, { common, slotParts }) : undefined;
  const issued = new IssuedSvids({ journal, clock, log });
  const authority = new Authority({ trustDomain, clock, log, issued });
  const keys = new KeySlots('signing', { ...slotParts, keyManager });
  const made = { trustDomain, subject: authoritySubjectOf(config), ttlMs: caTtl };
  const above = root?.parts ?? (upstream?.kind === 'plugin' ? upstream.authority : undefined);
  const certifier: Certifier =
    above === undefined
      ? new SelfCertifier(clock, { ...made, pathLength: 0, nameConstraints })
      : new UpstreamCertifier(above, clock, made);
  if (nameConstraints) log.warn({ refusedBy }, 'CA certificates get name constraints for URIs');
  const rotation = new AuthorityRotation(
    { ...common, keys, certifier, target: authority },
    { role: 'signing', keyType: caKeyType, ttlMs: caTtl, times: signingTimesOf(config) },
  );
  const administration = new AuthorityAdministration({
    ...common,
    authority,
    rotation,
    issued,
    hasUpstream: above !== undefined,
    hasOwnRoots: root !== undefined,
  });
  return {
    authority,
    rotation,
    root: root?.parts,
    issued,
    administration,
    topology: topologyOf(upstream),
    keys: root === undefined ? [keys] : [keys, root.keys],
  };
}

function topologyOf(upstream: UpstreamParts | undefined): string {
  if (upstream === undefined) return 'self-signed';
  return upstream.kind === 'plugin' ? upstream.name : 'local_root';
}

/** See docs/authority.md. */
const refusedBy = ['rustls (rustls-webpki from 0.103.12 on)', 'Mbed TLS', 'Chrome'];

function openRoot(
  config: ServerConfig,
  { config: root, keyManager }: Extract<UpstreamParts, { kind: 'local-root' }>,
  deps: {
    readonly common: Omit<ConstructorParameters<typeof LocalRoot>[0], 'keys'>;
    readonly slotParts: Omit<ConstructorParameters<typeof KeySlots>[1], 'keyManager'>;
  },
): { readonly parts: LocalRoot; readonly keys: KeySlots } {
  const keys = new KeySlots('root', { ...deps.slotParts, keyManager });
  const parts = new LocalRoot(
    { ...deps.common, keys },
    {
      subject: authoritySubjectOf(config),
      keyType: root.keyType,
      ttlMs: root.rootTtl,
      times: rootTimesOf(root, config),
      nameConstraints: config.authority.nameConstraints,
    },
  );
  return { parts, keys };
}
