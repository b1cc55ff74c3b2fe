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
  const byText = new Map(selectors.map((selector) => [selectorText(selector), selector]));
  return [...byText.values()].sort((a, b) => compareText(a.type, b.type) || compareText(a.value, b.value));
}

/** True when every selector of `wanted` is in `have`, a set of selector texts. */
export function isSubset(wanted: readonly Selector[], have: ReadonlySet<string>): boolean {
  return wanted.every((selector) => have.has(selectorText(selector)));
}

// Not localeCompare: the order must not depend on the machine's language.
function compareText(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

function invalid(text: string, rule: string): AppError {
  return new AppError('invalid-argument', `invalid selector ${JSON.stringify(text)}: ${rule}`);
}
