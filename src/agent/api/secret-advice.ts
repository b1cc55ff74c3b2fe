import { unprintable } from '../../runtime/printable.ts';
import { isReservedPath, SpiffeId, type TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { SecretStatus } from '../proxy-book.ts';
import type { HeldReason } from './resource.ts';
import { parseSecretName, type SdsNames, type SecretName } from './sds-names.ts';

/** Where advice is given. */
export interface AdviceContext {
  readonly trustDomain: TrustDomain;
  /** The agent's own ID, which entries of this node have as parent; undefined until it has joined. */
  readonly agentId: SpiffeId | undefined;
  readonly names: SdsNames;
  /** Of the proxy, as `type:value`. */
  readonly selectors: readonly string[];
}

type Advise = (name: string, meaning: SecretName | undefined, context: AdviceContext) => string;

const health = '`signet health --role agent` says what it waits for';

const adviceForHeld: Readonly<Record<HeldReason, Advise>> = {
  'unknown name': (_, __, { names }) =>
    `ask for ${[...names.keys()].slice(0, 10).join(', ')}, a SPIFFE ID, spiffe://TRUST-DOMAIN or hint:HINT; ` +
    "or give this name a meaning with `sds.aliases` in the agent's configuration",
  'agent is starting': () => health,
  'no registration entry': (_, meaning, context) => register(meaning, context),
  'not entitled': (_, meaning, context) =>
    meaning?.kind === 'bundle' ? federate(meaning.trustDomain) : register(meaning, context),
  'not signed yet': () => `it is sent once it is signed; ${health}`,
  'signing failed': () =>
    'the server does not sign it, and is asked again and again; `signet health --role agent` says why',
  'no bundle yet': () => `it is sent once the server has told it; ${health}`,
  'bundle gone': () =>
    '`signet bundle list` says which bundles the server has, `signet bundle set` gives it one',
  'file not read yet': () => "check the file that `sds.fileRoots` names; the agent's log says what is wrong",
};

/** What to do about a secret that is held, stalled or refused; empty for one that is well. For people, fit to print. */
export function nextStepFor(secret: SecretStatus, context: AdviceContext): string {
  const { name, held, acknowledged } = secret;
  if (secret.refused !== undefined) {
    const has = acknowledged === undefined ? 'nothing under this name' : `version ${acknowledged.version}`;
    return (
      `it runs on with ${has}; see what the error names: that may be another secret of this proxy, for Envoy checks ` +
      'all together. A newer version is sent by itself, the refused bytes never again'
    );
  }
  if (secret.isStalled) {
    return (
      'see whether the process is stopped or overloaded; when it reconnects it gets everything again, ' +
      'and `sds.closeStalled: true` makes it reconnect'
    );
  }
  if (held === undefined) return '';
  if (!isHeldReason(held)) return "it is sent by itself once that is over; the agent's log says more";
  return adviceForHeld[held](name, parseSecretName(name, context.names), context);
}

function isHeldReason(text: string): text is HeldReason {
  return Object.hasOwn(adviceForHeld, text);
}

/** The command that makes an entry for this proxy. */
function register(meaning: SecretName | undefined, context: AdviceContext): string {
  const { trustDomain, agentId, selectors } = context;
  const id = meaning?.kind === 'svid' ? SpiffeId.parse(meaning.id) : undefined;
  if (id !== undefined && (!id.isMemberOf(trustDomain) || isReservedPath(id.path))) {
    return `no workload here can have it: identities are those of ${trustDomain.id}/…, but for ${trustDomain.id}/spire/…`;
  }
  const words = [
    ...['signet', 'entry', 'create', '--spiffe-id', id?.toString() ?? `${trustDomain.id}/NAME`],
    ...(agentId === undefined ? [] : ['--parent', agentId.toString()]),
    ...['--selector', telling(selectors) ?? 'TYPE:VALUE'],
    ...(meaning?.kind === 'hint' ? ['--hint', meaning.hint] : []),
  ];
  if (words.some((word) => unprintable.test(word))) return 'register it: see `signet entry create --help`';
  return `register it on the server: ${words.map(quoted).join(' ')}`;
}

function federate(other: TrustDomain): string {
  return (
    `on the server: store that bundle (\`signet bundle set\`), then let the proxy's entry have it: ` +
    `signet entry update --id ENTRY-ID --federates-with ${other}`
  );
}

/** The user it runs as, for that says most on its own; else whatever there is. */
function telling(selectors: readonly string[]): string | undefined {
  const usable = selectors.filter((selector) => !unprintable.test(selector));
  return usable.find((selector) => selector.startsWith('unix:uid:')) ?? usable[0];
}

/** As one word for a shell: names and labels are other people's text, and the line is there to be copied. */
function quoted(word: string): string {
  return /^[\w./:@%+=,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
