import type {
  MintedAuthority,
  MintOptions,
  UpstreamAuthority,
  UpstreamAuthorityContext,
} from '../../plugin-api/upstream-authority.ts';
import { errorText } from '../../runtime/error.ts';
import { ReloadedFile } from '../../runtime/reloaded-file.ts';
import { lintAndSign } from '../../spiffe/certificate-lint.ts';
import { intermediateTemplate } from '../../spiffe/signing-certificate.ts';
import { requireSigningRequest } from '../../spiffe/signing-request.ts';
import { Certificate, parsePemCertificates } from '../../x509/certificate.ts';
import type { Signer } from '../../x509/signature.ts';
import type { DiskUpstreamConfig } from './disk-config.ts';
import { checkMaterial, type DiskMaterial, readSigner, setting } from './disk-material.ts';

interface Files {
  readonly certificates: ReloadedFile<readonly Certificate[]>;
  readonly roots: ReloadedFile<readonly Certificate[]> | undefined;
}

/**
 * A company's root or intermediate in files. They are replaced while we run, one after the other: only files that
 * fit together are taken over, and what was read before stays in use until then.
 */
export class DiskUpstreamAuthority implements UpstreamAuthority {
  readonly #config: DiskUpstreamConfig;
  readonly #context: UpstreamAuthorityContext;
  readonly #files: Files;
  #good: DiskMaterial;
  #read: { readonly certificates: unknown; readonly roots: unknown; readonly signer: Signer };
  #reported: string | undefined;

  private constructor(
    config: DiskUpstreamConfig,
    context: UpstreamAuthorityContext,
    opened: { readonly files: Files; readonly read: Awaited<ReturnType<typeof readAll>> },
  ) {
    this.#config = config;
    this.#context = context;
    this.#files = opened.files;
    this.#read = opened.read;
    this.#good = this.#check(opened.read);
  }

  /** Reads the files; throws `failed-precondition` that names the one that cannot be used, and why. */
  static async open(
    config: DiskUpstreamConfig,
    context: UpstreamAuthorityContext,
  ): Promise<DiskUpstreamAuthority> {
    const parse = (bytes: Buffer) => parsePemCertificates(bytes.toString('latin1'));
    const files = {
      certificates: new ReloadedFile(setting('certFile'), config.certFile, parse),
      roots:
        config.bundleFile === undefined
          ? undefined
          : new ReloadedFile(setting('bundleFile'), config.bundleFile, parse),
    };
    return new DiskUpstreamAuthority(config, context, { files, read: await readAll(files, config.keyFile) });
  }

  async mint(csr: Uint8Array, { preferredTtlMs }: MintOptions): Promise<MintedAuthority> {
    const { trustDomain, clock, nameConstraints } = this.#context;
    const { subject, spki } = requireSigningRequest(csr, trustDomain);
    const { signer, path, roots } = await this.#current();
    const [issuer] = path;
    const nowMs = clock.now();
    const template = intermediateTemplate({
      trustDomain,
      subject,
      spki,
      nowMs,
      notAfterMs: Math.min(nowMs + preferredTtlMs, endOf(path)),
      pathLength: 0,
      nameConstraints,
      issuer,
    });
    const der = await lintAndSign(template, signer, { profile: 'signing-certificate', trustDomain });
    return { chain: [Certificate.parse(der), ...path.slice(0, -1)], roots };
  }

  async roots(): Promise<readonly Certificate[]> {
    return (await this.#current()).roots;
  }

  async latestEndMs(): Promise<number> {
    return endOf((await this.#current()).path);
  }

  async #current(): Promise<DiskMaterial> {
    try {
      const read = await readAll(this.#files, this.#config.keyFile);
      const isSame =
        read.certificates === this.#read.certificates &&
        read.roots === this.#read.roots &&
        Buffer.compare(read.signer.publicKey, this.#read.signer.publicKey) === 0;
      if (!isSame) {
        this.#good = this.#check(read);
        this.#read = read;
        this.#context.log.info(
          { subject: this.#good.path[0].subjectText, expiresAt: new Date(endOf(this.#good.path)) },
          'upstream authority read again',
        );
      }
      this.#reported = undefined;
    } catch (error) {
      const text = errorText(error);
      // Said once, not at each look.
      if (text !== this.#reported) {
        this.#context.log.warn(
          { error },
          'the files of the upstream authority do not fit together; those read before stay in use',
        );
      }
      this.#reported = text;
    }
    return this.#good;
  }

  #check(read: Awaited<ReturnType<typeof readAll>>): DiskMaterial {
    const { trustDomain, clock } = this.#context;
    return checkMaterial({ ...read, trustDomain, nowMs: clock.now() });
  }
}

async function readAll({ certificates, roots }: Files, keyFile: string) {
  return {
    certificates: await certificates.read(),
    roots: await roots?.read(),
    signer: await readSigner(keyFile),
  };
}

/** Nothing below a path is valid longer than each certificate in it. */
function endOf(path: readonly Certificate[]): number {
  return Math.min(...path.map(({ notAfterMs }) => notAfterMs));
}
