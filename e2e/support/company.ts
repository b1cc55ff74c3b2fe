import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { TestIdentity } from '../../src/testing/certificates.ts';
import type { Sandbox } from './sandbox.ts';

const hourMs = 3_600_000;

/** The CA of a company: an intermediate below its root, in the files of `upstreamAuthority: { disk: … }`. */
export class Company {
  readonly config: Readonly<Record<'certFile' | 'keyFile' | 'bundleFile', string>>;
  readonly #roots: TestIdentity[] = [];

  private constructor(dir: string) {
    const [certFile, keyFile, bundleFile] = ['ca.pem', 'ca.key', 'roots.pem'].map((name) => join(dir, name));
    this.config = { certFile: certFile!, keyFile: keyFile!, bundleFile: bundleFile! };
  }

  static async create({ dir }: Sandbox): Promise<Company> {
    const company = new Company(dir);
    await company.renew();
    return company;
  }

  /** Another intermediate below another root; the roots before it stay listed. */
  async renew(): Promise<void> {
    const validity = { notBeforeMs: Date.now() - hourMs, notAfterMs: Date.now() + 1_000 * hourMs, uris: [] };
    const root = await TestIdentity.root('corp', validity);
    const issuing = await root.intermediate({ ...validity, commonName: 'issuing' });
    this.#roots.push(root);
    const { certFile, keyFile, bundleFile } = this.config;
    writeFileSync(bundleFile, this.#roots.map(({ certificate }) => certificate.toPem()).join(''));
    writeFileSync(certFile, issuing.certificate.toPem());
    writeFileSync(keyFile, issuing.privateKeyPem, { mode: 0o600 });
  }
}
