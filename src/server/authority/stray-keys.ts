import type { AuthorityRole, AuthorityStore } from '../../plugin-api/data-store.ts';
import type { KeySlots } from './key-slots.ts';

/** A key that nothing accounts for. */
export interface FoundKey {
  readonly role: AuthorityRole;
  readonly keyId: string;
  /** For people. */
  readonly why: string;
}

/** Lists the keys of these managers that nothing accounts for, and destroys them unless `dryRun`. */
export async function pruneKeys(
  deps: { readonly journal: Pick<AuthorityStore, 'list'>; readonly keys: readonly KeySlots[] },
  { dryRun }: { readonly dryRun: boolean },
): Promise<readonly FoundKey[]> {
  const records = await deps.journal.list();
  const found: FoundKey[] = [];
  for (const slots of deps.keys) {
    for (const stray of await slots.strays(records)) {
      if (!dryRun) await stray.destroy();
      const { role, keyId, why } = stray;
      found.push({ role, keyId, why });
    }
  }
  return found;
}
