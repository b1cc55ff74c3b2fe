import { AccountFile } from '../../plugins/workload-attestor/passwd-file.ts';
import { AppError } from '../../runtime/error.ts';
import type { FileOwner } from './file-system.ts';

/** As chown(1) takes it: `user`, `user:group` or `:group`, by name or number; undefined for a part that is not said. */
export interface OwnerNames {
  readonly user: string | undefined;
  readonly group: string | undefined;
}

/** Where names of accounts are looked up. */
interface Accounts {
  names(): Promise<ReadonlyMap<number, string>>;
}

/** Parses `--owner`; throws `invalid-argument`. */
export function parseOwner(text: string): OwnerNames {
  const [, user = '', group = ''] = /^([^:\s]*)(?::([^:\s]+))?$/.exec(text) ?? [];
  if (user !== '' || group !== '') return { user: user || undefined, group: group || undefined };
  throw new AppError(
    'invalid-argument',
    `expected USER, USER:GROUP or :GROUP, by name or number, got ${JSON.stringify(text)}`,
  );
}

/** Throws `not-found` for an unknown name, and `failed-precondition` for what this user may not give away. */
export async function resolveOwner(
  { user, group }: OwnerNames,
  accounts: { readonly users: Accounts; readonly groups: Accounts } = {
    users: new AccountFile('passwd'),
    groups: new AccountFile('group'),
  },
): Promise<FileOwner> {
  const uid = user === undefined ? -1 : await idOf('user', user, accounts.users);
  const gid = group === undefined ? -1 : await idOf('group', group, accounts.groups);
  const mine = process.geteuid?.();
  const isAllowed =
    mine === 0 ||
    ((uid === -1 || uid === mine) && (gid === -1 || (process.getgroups?.() ?? []).includes(gid)));
  if (isAllowed) return { uid, gid };
  throw new AppError(
    'failed-precondition',
    '--owner needs root, but for a group that this user is in; run this command as that user instead',
  );
}

async function idOf(kind: 'user' | 'group', name: string, accounts: Accounts): Promise<number> {
  // 2^32 - 1 is the "no id" of the kernel.
  if (/^\d{1,10}$/.test(name) && Number(name) < 0xffff_ffff) return Number(name);
  for (const [id, known] of await accounts.names()) if (known === name) return id;
  throw new AppError('not-found', `there is no ${kind} "${name}" in /etc; give its number`);
}
