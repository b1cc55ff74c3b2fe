import { errorText } from '../../runtime/error.ts';
import type { WorkloadView } from '../workload-view.ts';
import type { Offer } from './offer.ts';
import type { Choice, ProxySecret } from './proxy-secret.ts';
import type { HeldReason, Resource, ServedResource, TrustResource } from './resource.ts';
import type { ValidatorFlavour } from './sds-names.ts';
import type { SdsResources } from './sds-resources.ts';

/** What names stand for: `SdsResources`. */
export type SecretSource = Pick<
  SdsResources,
  'resolve' | 'encode' | 'cut' | 'kindOf' | 'allNames' | 'changes'
>;

/** Who chooses, and in what situation. */
export interface ChoiceContext {
  readonly source: SecretSource;
  readonly view: WorkloadView;
  readonly flavour: ValidatorFlavour | undefined;
  readonly onWithdraw: 'keep' | 'block';
  /** The one refused content that may be tried again now. */
  isOnTrial(secret: ProxySecret, content: string): boolean;
  /** Something else is due to the proxy or not answered, or would be, were this one not in the way. */
  isBusyElsewhere(secret: ProxySecret): boolean;
  /** How long a certificate that is new to the proxy has to wait; `has` is the leaf that it may keep meanwhile. */
  leafWaitMs(secret: ProxySecret, has: ServedResource | undefined): number;
  readonly nowMs: number;
}

/** Nobody is trusted by it, whatever the flavour. */
const trustNobody: TrustResource = { kind: 'trust', flavour: 'spiffe', domains: [] };
const waitsForTrust = 'waits for the proxy to acknowledge its trust secrets';
const isRefused = 'refused by the proxy';
/** Reasons why a name is held that the proxy itself knows, or that pass within moments. */
export const ownReasons: ReadonlySet<string> = new Set([waitsForTrust, isRefused]);
/** Says nothing about what the caller may have. */
const saysNothing: readonly HeldReason[] = ['agent is starting', 'file not read yet'];

/**
 * What a proxy is to have under a name: the newest version, unless it refused that or has to wait for it; else the last
 * good one, cut to what is allowed now. What is withdrawn waits for nothing.
 */
export function chooseFor(secret: ProxySecret, resource: Resource, context: ChoiceContext): Choice {
  try {
    if (resource.kind === 'unfit') return lastGood(secret, resource.problem, context);
    if (resource.kind !== 'held') return newest(secret, resource, context);
    if (resource.isAbsent) return absent(secret, resource.reason, context);
    if (saysNothing.includes(resource.reason)) return { held: resource.reason };
    return lastGood(secret, resource.reason, context);
  } catch (error) {
    // What must not leave the process cannot be encoded.
    return { held: errorText(error) };
  }
}

function newest(secret: ProxySecret, resource: ServedResource, context: ChoiceContext): Choice {
  const offer = offerOf(secret, resource, context);
  const { content } = offer;
  if (context.isOnTrial(secret, content)) return { offer, newest: content, retry: content };
  const verdict = secret.quarantine.verdictOn(content);
  if (verdict === 'retry')
    return { ...lastGood(secret, isRefused, context), newest: content, retry: content };
  if (verdict === 'refused') return { ...lastGood(secret, isRefused, context), newest: content };
  const waitMs = resource.kind === 'certificate' ? leafWaitMs(secret, offer, context) : 0;
  if (waitMs === 0) return { offer, newest: content };
  return { ...lastGood(secret, waitsForTrust, context), newest: content, waitsFor: 'trust', validMs: waitMs };
}

function leafWaitMs(secret: ProxySecret, offer: Offer, context: ChoiceContext): number {
  const isUnderWay = secret.choice.offer?.content === offer.content;
  if (isUnderWay || secret.known?.content === offer.content) return 0;
  const { known } = secret;
  if (known === undefined) return context.leafWaitMs(secret, undefined);
  const has = context.source.cut(secret.name, known.resource, context.view, context.flavour);
  // It is replaced because it is withdrawn.
  return has === undefined ? 0 : context.leafWaitMs(secret, has);
}

function lastGood(secret: ProxySecret, held: string, context: ChoiceContext): Choice {
  const { known, name, quarantine } = secret;
  if (known === undefined) return { held };
  const left = context.source.cut(name, known.resource, context.view, context.flavour);
  if (left === undefined) return { held };
  // A step back may wait, other than a withdrawal: Envoy goes on with what it had, and would check all that is newer
  // together with what is older.
  const mayWait = secret.isDirty && left === known.resource;
  if (mayWait && context.isBusyElsewhere(secret)) return { held, waitsFor: 'turn' };
  const offer = offerOf(secret, left, context);
  const verdict = quarantine.verdictOn(offer.content);
  const validMs = left.kind === 'certificate' ? left.held.svid.notAfterMs - context.nowMs : undefined;
  if (validMs !== undefined && validMs <= 0) return { held };
  if (verdict === 'sendable') return { offer, held, validMs };
  if (context.isOnTrial(secret, offer.content)) return { offer, held, validMs, retry: offer.content };
  const retry = verdict === 'retry' ? offer.content : undefined;
  // It has never had anything good, and what it has stored spoils all that is used together with it.
  const isHopeless = left.kind === 'trust' && !secret.isAcknowledged;
  return isHopeless ? { ...nobody(secret, held, context), retry } : { held, retry };
}

function absent(secret: ProxySecret, held: string, context: ChoiceContext): Choice {
  // Whether it was sent does not matter: it may have been so by an agent that ran before.
  const isBlocked = context.onWithdraw === 'block' && context.source.kindOf(secret.name) === 'trust';
  return isBlocked ? nobody(secret, held, context) : { held, isAbsent: true };
}

function nobody(secret: ProxySecret, held: string, context: ChoiceContext): Choice {
  const offer = offerOf(secret, trustNobody, context);
  const newest = offer.content;
  const verdict = secret.quarantine.verdictOn(newest);
  const retry = verdict === 'retry' ? newest : undefined;
  const maySend = verdict === 'sendable' || context.isOnTrial(secret, newest);
  return maySend ? { offer, held, newest, retry } : { held, newest, retry };
}

function offerOf(secret: ProxySecret, resource: ServedResource, { source }: ChoiceContext): Offer {
  const { name, quarantine, choice } = secret;
  const before = choice.offer;
  if (before?.resource === resource && before.salt === quarantine.saltOf(before.content)) return before;
  const plain = source.encode(name, resource, 0);
  const salt = quarantine.saltOf(plain.version);
  const encoded = salt === 0 ? plain : source.encode(name, resource, salt);
  return { secret: encoded, resource, content: plain.version, salt };
}
