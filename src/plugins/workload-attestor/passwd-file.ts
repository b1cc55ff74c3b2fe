import { open } from 'node:fs/promises';
import { AppError } from '../../runtime/error.ts';
import { fingerprintOf } from './proc-reader.ts';

/** The two files and how many fields their lines have (passwd(5), group(5)); the id is the third in both. */
const fieldCounts = { passwd: 7, group: 4 } as const;

/**
 * Names of users or groups by id, from /etc/passwd or /etc/group, read again when the file has changed. Accounts
 * that come from elsewhere (LDAP, NIS) have no name here.
 */
export class AccountFile {
  readonly #path: string;
  readonly #kind: keyof typeof fieldCounts;
  #read: { readonly fingerprint: string; readonly names: ReadonlyMap<number, string> } | undefined;

  constructor(kind: keyof typeof fieldCounts, path = `/etc/${kind}`) {
    this.#kind = kind;
    this.#path = path;
  }

  /** The names as they are now; none when there is no such file. Throws `failed-precondition` when it is unreadable. */
  async names(): Promise<ReadonlyMap<number, string>> {
    try {
      return await this.#current();
    } catch (cause) {
      if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return new Map();
      throw new AppError('failed-precondition', `cannot read account names from "${this.#path}"`, { cause });
    }
  }

  async #current(): Promise<ReadonlyMap<number, string>> {
    const file = await open(this.#path, 'r');
    try {
      const fingerprint = fingerprintOf(await file.stat({ bigint: true }));
      if (this.#read?.fingerprint !== fingerprint) {
        this.#read = { fingerprint, names: parseAccounts(this.#kind, await file.readFile('utf8')) };
      }
      return this.#read.names;
    } finally {
      await file.close();
    }
  }
}

/**
 * Parses the file's text. Lines that are not exactly as they should be give no name, among them the `+` lines of
 * NIS; of several names for one id the first counts, as in getpwuid(3).
 */
export function parseAccounts(kind: keyof typeof fieldCounts, text: string): ReadonlyMap<number, string> {
  const names = new Map<number, string>();
  for (const line of text.split('\n')) {
    const fields = line.split(':');
    const [name = '', , idText = ''] = fields;
    if (fields.length !== fieldCounts[kind] || !isName(name) || !/^(0|[1-9][0-9]{0,9})$/.test(idText))
      continue;
    const id = Number(idText);
    // 2^32 - 1 is the "no id" of the kernel.
    if (id < 0xffff_ffff && !names.has(id)) names.set(id, name);
  }
  return names;
}

/** useradd(8) is stricter, but directories that sync into the file use `@`, `\` or letters of other alphabets. */
function isName(name: string): boolean {
  return /^[^\s#+-][^\s]*$/.test(name) && !/\p{Cc}|\ufffd/u.test(name);
}
