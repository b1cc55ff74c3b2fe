import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errorText } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { readPrivateFile, writePrivateFile } from '../../runtime/private-file.ts';
import { TokenFault } from './pkcs11-faults.ts';
import { pinFileIdentity } from './pkcs11-pin.ts';

const fileName = 'pkcs11-refused-pins';
/** One for each PIN file that this data directory's key managers use, and some that have changed since. */
const remembered = 16;

/**
 * Remembers which PIN file a token has refused, by the file's identity and never by its content, also beyond a
 * restart: a supervisor that starts a server again and again would lock the token with one wrong PIN.
 */
export class RefusedPins {
  readonly #dataDir: string;
  readonly #log: Logger;
  #refused: readonly string[] = [];

  constructor(deps: { readonly dataDir: string; readonly log: Logger }) {
    this.#dataDir = deps.dataDir;
    this.#log = deps.log;
  }

  /** Throws TokenFault `PIN_REFUSED_BEFORE` when this file is as it was when the token refused it. */
  async check(pinFile: string): Promise<void> {
    const identity = await pinFileIdentity(pinFile);
    if (identity === undefined) return;
    if (![...this.#refused, ...(await this.#stored())].includes(identity)) return;
    throw new TokenFault({ name: 'PIN_REFUSED_BEFORE', method: '', pinFile: identity });
  }

  /** Notes that the token has refused the file with this identity. */
  async remember(identity: string | undefined): Promise<void> {
    if (identity === undefined || this.#refused.includes(identity)) return;
    this.#refused = [...this.#refused, identity].slice(-remembered);
    // A file that root leaves in another user's data directory would only be in the way.
    const owner = await stat(this.#dataDir).catch(() => undefined);
    if (owner?.uid !== process.geteuid?.()) return;
    const all = new Set([...(await this.#stored()), identity]);
    const content = `${[...all].slice(-remembered).join('\n')}\n`;
    await writePrivateFile(join(this.#dataDir, fileName), content).catch((error: unknown) => {
      this.#log.warn({ error: errorText(error) }, 'the refused PIN is forgotten when this process ends');
    });
  }

  async #stored(): Promise<readonly string[]> {
    const content = await readPrivateFile(join(this.#dataDir, fileName)).catch(() => undefined);
    return (
      content
        ?.toString('utf8')
        .split('\n')
        .filter((line) => line !== '') ?? []
    );
  }
}
