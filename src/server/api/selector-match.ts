import { type SelectorMatch, SelectorMatch_MatchBehavior } from '../../gen/spire/api/types/selector.ts';
import { selectorsFromWire } from '../../rpc/messages.ts';
import { AppError } from '../../runtime/error.ts';
import type { MatchBehavior, Selector } from '../../spiffe/selector.ts';

const { MATCH_EXACT, MATCH_SUBSET, MATCH_SUPERSET, MATCH_ANY } = SelectorMatch_MatchBehavior;

/** `FederatesWithMatch` has the same names and numbers. */
const behaviors: ReadonlyMap<number, MatchBehavior> = new Map([
  [MATCH_EXACT, 'exact'],
  [MATCH_SUBSET, 'subset'],
  [MATCH_SUPERSET, 'superset'],
  [MATCH_ANY, 'any'],
]);

/** Throws `invalid-argument` for a behaviour that SPIRE does not have. */
export function matchBehaviorFromWire(wire: number): MatchBehavior {
  const behavior = behaviors.get(wire);
  if (behavior !== undefined) return behavior;
  throw new AppError('invalid-argument', `unknown match behavior ${wire}; expected 0 to 3`);
}

/** The filter `by_selectors` of lists. Throws `invalid-argument`, also for no selectors at all, as SPIRE does. */
export function selectorMatchFromWire(wire: SelectorMatch): {
  readonly wanted: readonly Selector[];
  readonly match: MatchBehavior;
} {
  const match = matchBehaviorFromWire(wire.match);
  if (wire.selectors.length === 0) {
    throw new AppError('invalid-argument', 'cannot list by empty selectors set');
  }
  return { wanted: selectorsFromWire(wire.selectors), match };
}
