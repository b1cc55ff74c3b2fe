import { errorText } from '../../runtime/error.ts';
import type { Service } from '../../runtime/lifecycle.ts';
import type { Logger } from '../../runtime/log.ts';
import { Observable } from '../../runtime/observable.ts';
import { ReloadedFile } from '../../runtime/reloaded-file.ts';
import type { Clock } from '../../runtime/time.ts';
import { type Certificate, parsePemCertificates } from '../../x509/certificate.ts';

/** How long a change of a file may go unnoticed. */
const pollMs = 5_000;

/** What is known of a file. `certificates` is the same object for as long as the file is the same. */
export type FileRootsState =
  | { readonly kind: 'reading' }
  | { readonly kind: 'read'; readonly certificates: readonly Certificate[] }
  | { readonly kind: 'unfit'; readonly problem: string };

interface Followed {
  readonly file: ReloadedFile<readonly Certificate[]>;
  state: FileRootsState;
  reported: unknown;
}

/**
 * Files of trusted roots that administrators have allowed to be served, such as those of the system. A file is first
 * read when it is asked for, and from then on followed. What cannot be read again stays in use as it was.
 */
export class FileRoots implements Service {
  readonly name = 'files of roots';
  /** Counts the changes of what `find` answers. */
  readonly changes = new Observable(0);
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #files = new Map<string, Followed>();

  constructor(deps: { readonly clock: Clock; readonly log: Logger }) {
    this.#clock = deps.clock;
    this.#log = deps.log;
  }

  /** What the file holds; `path` is of the configuration, so that their number is bounded. */
  find(path: string): FileRootsState {
    const known = this.#files.get(path);
    if (known !== undefined) return known.state;
    const file = new ReloadedFile('sds.fileRoots', path, parseRoots);
    const followed: Followed = { file, state: { kind: 'reading' }, reported: undefined };
    this.#files.set(path, followed);
    // Never rejects. Not waited for: who asks is held until `changes` says that there is an answer.
    void this.#look(followed, path);
    return followed.state;
  }

  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    ready();
    while (!signal.aborted) {
      await this.#clock.sleep(pollMs, signal);
      await Promise.all([...this.#files].map(([path, followed]) => this.#look(followed, path)));
    }
  }

  async #look(followed: Followed, path: string): Promise<void> {
    try {
      const certificates = await followed.file.read();
      followed.reported = undefined;
      const { state } = followed;
      if (state.kind === 'read' && state.certificates === certificates) return;
      followed.state = { kind: 'read', certificates };
      this.#log.info({ path, certificates: certificates.length }, 'file of roots read');
    } catch (error) {
      // The same object until the file changes.
      if (followed.reported === error) return;
      followed.reported = error;
      const isHeld = followed.state.kind === 'read';
      this.#log.error(
        { path, error, isHeld },
        'file of roots cannot be used; what was read of it stays in use',
      );
      if (isHeld) return;
      followed.state = { kind: 'unfit', problem: errorText(error) };
    }
    this.changes.set(this.changes.value + 1);
  }
}

/** One or more certificates, each once; throws for anything else in the file, of which Envoy would refuse all. */
function parseRoots(bytes: Buffer): readonly Certificate[] {
  const certificates = parsePemCertificates(bytes.toString('latin1'));
  return [...new Map(certificates.map((one) => [one.fingerprint, one])).values()];
}
