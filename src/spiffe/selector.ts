import { AppError } from '../runtime/error.ts';

/** One provable property of a node or process, such as type `unix`, value `uid:1000`. */
export interface Selector {
  /** Not empty, without `:`. */
  readonly type: string;
  /** Not empty; may contain `:`. */
  readonly value: string;
}

/** Parses `type:value`, split at the first colon; throws `invalid-argument`. */
export function parseSelector(text: string): Selector {
  const colon = text.indexOf(':');
  if (colon === -1) throw invalid(text, 'expected "type:value"');
  return checkSelector({ type: text.slice(0, colon), value: text.slice(colon + 1) });
}

/** Refuses what `parseSelector` could never have returned; for selectors that come in two parts. Throws `invalid-argument`. */
export function checkSelector(selector: Selector): Selector {
  const { type, value } = selector;
  if (type === '') throw invalid(selectorText(selector), 'the type before ":" must not be empty');
  if (type.includes(':'))
    throw invalid(selectorText(selector), `the type ${JSON.stringify(type)} must not contain ":"`);
  if (value === '') throw invalid(selectorText(selector), 'the value after ":" must not be empty');
  return selector;
}

/** `type:value`; two selectors are equal exactly when their texts are. */
export function selectorText(selector: Selector): string {
  return `${selector.type}:${selector.value}`;
}

/** The same set in one order for all (by type, then value, in code units), without duplicates. */
export function canonicalSelectors(selectors: readonly Selector[]): readonly Selector[] {
  if (isCanonical(selectors)) return selectors;
  const byText = new Map(selectors.map((selector) => [selectorText(selector), selector]));
  return [...byText.values()].sort(compareSelectors);
}

/** Most are when they come, and they pass many hands. */
function isCanonical(selectors: readonly Selector[]): boolean {
  return selectors.every((selector, i) => {
    const before = selectors[i - 1];
    return before === undefined || compareSelectors(before, selector) < 0;
  });
}

function compareSelectors(a: Selector, b: Selector): number {
  return compareText(a.type, b.type) || compareText(a.value, b.value);
}

/** True when every selector of `wanted` is in `have`, a set of selector texts. */
export function isSubset(wanted: readonly Selector[], have: ReadonlySet<string>): boolean {
  return wanted.every((selector) => have.has(selectorText(selector)));
}

/** How a set of texts is compared with the one that a filter names (`SelectorMatch`, `FederatesWithMatch` of SPIRE). */
export type MatchBehavior = 'exact' | 'subset' | 'superset' | 'any';

/**
 * A test of many sets against `wanted`: is a set equal to it, a subset or a superset of it, or does it share
 * anything with it? As in SPIRE an empty set is a subset of nothing. The texts of a set are each there once.
 */
export function setMatcher(
  wanted: readonly string[],
  behavior: MatchBehavior,
): (have: readonly string[]) => boolean {
  const names = new Set(wanted);
  const isWanted = (text: string) => names.has(text);
  switch (behavior) {
    case 'exact':
      return (have) => have.length === names.size && have.every(isWanted);
    case 'subset':
      return (have) => have.length > 0 && have.every(isWanted);
    case 'superset':
      return (have) => have.length >= names.size && have.filter(isWanted).length === names.size;
    case 'any':
      return (have) => have.some(isWanted);
  }
}

/** `setMatcher` for one set. */
export function matchesSet(
  have: readonly string[],
  wanted: readonly string[],
  behavior: MatchBehavior,
): boolean {
  return setMatcher(wanted, behavior)(have);
}

// Not localeCompare: the order must not depend on the machine's language.
function compareText(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

function invalid(text: string, rule: string): AppError {
  return new AppError('invalid-argument', `invalid selector ${JSON.stringify(text)}: ${rule}`);
}
