import { describe } from 'vitest';
import { describeAgentStore } from '../../testing/data-store/agent-conformance.ts';
import { describeAuthorityStore } from '../../testing/data-store/authority-conformance.ts';
import { describeBundleStore } from '../../testing/data-store/bundle-conformance.ts';
import { describeEntryStore } from '../../testing/data-store/entry-conformance.ts';
import type { OpenHarness } from '../../testing/data-store/samples.ts';
import { describeJoinTokenStore } from '../../testing/data-store/token-conformance.ts';

/** What every data store must do. */
export function describeDataStore(name: string, open: OpenHarness): void {
  describe(`the data store "${name}"`, () => {
    describeEntryStore(open);
    describeAgentStore(open);
    describeBundleStore(open);
    describeJoinTokenStore(open);
    describeAuthorityStore(open);
  });
}
