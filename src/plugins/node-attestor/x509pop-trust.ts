import { AppError, isAppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { LogLimiter } from '../../runtime/log-limiter.ts';
import { ReloadedFile } from '../../runtime/reloaded-file.ts';
import type { Clock } from '../../runtime/time.ts';
import { type Certificate, parsePemCertificates } from '../../x509/certificate.ts';
import { validatePath } from '../../x509/path-validation.ts';
import { requireNotRevoked } from '../../x509/revocation.ts';
import { parseRevocationLists, type RevocationList } from '../../x509/revocation-list.ts';
import type { X509popServerConfig } from './x509pop-config.ts';

interface Deps {
  readonly clock: Clock;
  readonly log: Logger;
}

/** A trusted file with what it last held when it could be used. */
interface AuthorityFile {
  readonly file: ReloadedFile<readonly Certificate[]>;
  good: readonly Certificate[];
  reported: unknown;
}

/**
 * Whom the server believes about nodes: the authorities in the files of its configuration, and their revocation lists.
 * Both follow the files. Authorities that cannot be read again stay in use; a list that cannot be read refuses
 * everybody, because what it revokes is not known.
 */
export class NodeTrust {
  readonly #deps: Deps;
  readonly #authorities: readonly AuthorityFile[];
  readonly #lists: ReloadedFile<readonly RevocationList[]> | undefined;
  readonly #limitedLog: LogLimiter;

  private constructor(
    deps: Deps,
    authorities: readonly AuthorityFile[],
    lists: ReloadedFile<readonly RevocationList[]> | undefined,
  ) {
    this.#deps = deps;
    this.#authorities = authorities;
    this.#lists = lists;
    this.#limitedLog = new LogLimiter(deps);
  }

  /** Reads the files; throws `failed-precondition` that names the one that cannot be used. */
  static async open(
    { caFile, caFiles = [], revocationListFile }: X509popServerConfig,
    deps: Deps,
  ): Promise<NodeTrust> {
    const paths = [...(caFile === undefined ? [] : [caFile]), ...caFiles];
    const authorities = await Promise.all(
      paths.map(async (path) => {
        const file = new ReloadedFile(setting('caFile'), path, parseAuthorities);
        return { file, good: await file.read(), reported: undefined };
      }),
    );
    const lists =
      revocationListFile === undefined
        ? undefined
        : new ReloadedFile(setting('revocationListFile'), revocationListFile, parseRevocationLists);
    await lists?.read();
    return new NodeTrust(deps, authorities, lists);
  }

  /**
   * A path from the certificate to a trusted authority, leaf first; throws `permission-denied` when there is none or
   * it is revoked, `unavailable` when our revocation list cannot be used.
   */
  async verify(leaf: Certificate, intermediates: readonly Certificate[]): Promise<readonly Certificate[]> {
    const anchors = (await Promise.all(this.#authorities.map((one) => this.#current(one)))).flat();
    const nowMs = this.#deps.clock.now();
    try {
      const path = validatePath({ leaf, intermediates, anchors, nowMs });
      if (this.#lists !== undefined) requireNotRevoked(path, await this.#currentLists(this.#lists), nowMs);
      return path;
    } catch (error) {
      if (!isAppError(error, 'unauthenticated')) throw error;
      if (error.reason === 'REVOCATION_UNKNOWN') this.#reportLists(error);
      const options = error.reason === undefined ? {} : { reason: error.reason };
      throw new AppError('permission-denied', `certificate verification failed: ${error.message}`, options);
    }
  }

  async #current(authority: AuthorityFile): Promise<readonly Certificate[]> {
    try {
      authority.good = await authority.file.read();
    } catch (error) {
      // Once for each state of the file: it is the same error object until that changes.
      if (authority.reported !== error) {
        this.#deps.log.warn(
          { error },
          'trusted authorities cannot be read again; those read before stay in use',
        );
      }
      authority.reported = error;
    }
    return authority.good;
  }

  async #currentLists(lists: ReloadedFile<readonly RevocationList[]>): Promise<readonly RevocationList[]> {
    return lists.read().catch((cause: unknown) => {
      this.#reportLists(cause);
      const message = 'the revocation list of the server cannot be used; the log of the server says why';
      throw new AppError('unavailable', message, { cause });
    });
  }

  #reportLists(error: unknown): void {
    this.#limitedLog.write('warn', { error }, 'nodes are refused for want of a usable revocation list');
  }
}

function setting(name: string): string {
  return `nodeAttestors.x509pop.${name}`;
}

function parseAuthorities(bytes: Buffer): readonly Certificate[] {
  const certificates = parsePemCertificates(bytes.toString('latin1'));
  const other = certificates.find(({ isCa }) => !isCa);
  if (other === undefined) return certificates;
  throw new AppError(
    'failed-precondition',
    `certificate "${other.subjectText}" is not a certificate authority; expected those that sign the certificates of nodes`,
  );
}
