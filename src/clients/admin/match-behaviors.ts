import { SelectorMatch_MatchBehavior } from '../../gen/spire/api/types/selector.ts';
import type { MatchBehavior } from '../../spiffe/selector.ts';

/** As `SelectorMatch` writes them; `FederatesWithMatch` has the same names and numbers. */
export const matchBehaviors = {
  exact: SelectorMatch_MatchBehavior.MATCH_EXACT,
  subset: SelectorMatch_MatchBehavior.MATCH_SUBSET,
  superset: SelectorMatch_MatchBehavior.MATCH_SUPERSET,
  any: SelectorMatch_MatchBehavior.MATCH_ANY,
} as const satisfies Record<MatchBehavior, SelectorMatch_MatchBehavior>;
