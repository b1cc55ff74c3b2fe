import { hash } from 'node:crypto';
import { AppError } from '../../runtime/error.ts';
import type { Selector } from '../../spiffe/selector.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { Certificate } from '../../x509/certificate.ts';
import { attributeTexts } from '../../x509/names.ts';
import type { AgentPathVariables } from './agent-path-template.ts';

/** The name on the wire, in selectors and in paths. */
const pluginName = 'x509pop';

/** What a verified certificate says about its node: the variables of path templates, and selectors, as SPIRE has them. */
export class NodeFacts implements AgentPathVariables {
  readonly #path: readonly Certificate[];
  readonly #values: ReadonlyMap<string, string>;
  readonly #sanValues: ReadonlyMap<string, string>;

  /** `path`: leaf first, anchor last. Throws AppError for a common name that can be read in two ways. */
  constructor(leaf: Certificate, path: readonly Certificate[], trustDomain: TrustDomain) {
    const commonName = commonNameOf(leaf);
    this.#path = path;
    this.#sanValues = sanValuesOf(leaf.uris, trustDomain);
    this.#values = new Map([
      ['PluginName', pluginName],
      ['TrustDomain', trustDomain.name],
      ['Fingerprint', sha1Of(leaf)],
      ['SerialNumberHex', leaf.serialHex],
      ...(commonName === undefined ? [] : [['Subject.CommonName', commonName] as const]),
    ]);
  }

  find(name: string): string | undefined {
    const [, sanKey] = /^URISanSelectors\.(.+)$/.exec(name) ?? [];
    return sanKey === undefined ? this.#values.get(name) : this.#sanValues.get(sanKey);
  }

  /** Type `x509pop`; the authorities are those of the one path that was verified. */
  selectors(): readonly Selector[] {
    const commonName = this.#values.get('Subject.CommonName');
    const values = [
      ...(commonName === undefined ? [] : [`subject:cn:${commonName}`]),
      ...new Set(this.#path.slice(1).map((issuer) => `ca:fingerprint:${sha1Of(issuer)}`)),
      `serialnumber:${this.#values.get('SerialNumberHex')}`,
      ...[...this.#sanValues].map(([key, value]) => `san:${key}:${value}`),
    ];
    return values.map((value) => ({ type: pluginName, value }));
  }
}

/** A name, not a protection: what it names has been verified. */
function sha1Of({ der }: Certificate): string {
  return hash('sha1', der, 'hex');
}

function commonNameOf({ subject }: Certificate): string | undefined {
  const names = attributeTexts(subject, 'commonName');
  if (names.length > 1)
    throw new AppError(
      'permission-denied',
      `the certificate has ${names.length} common names; at most one is expected`,
    );
  return names[0];
}

/** From URIs `x509pop://TRUST-DOMAIN/KEY/VALUE`; of two with one key the last counts. Others mean nothing here. */
function sanValuesOf(uris: readonly string[], trustDomain: TrustDomain): ReadonlyMap<string, string> {
  const prefix = `${pluginName}://${trustDomain.name}/`;
  const values = new Map<string, string>();
  for (const uri of uris.filter((text) => text.startsWith(prefix))) {
    const segments = decoded(uri.slice(prefix.length).replace(/[?#].*$/, '')).split('/');
    const isThere = (segment: string) => segment !== '';
    const [key, ...rest] = segments.slice(segments.findIndex(isThere), segments.findLastIndex(isThere) + 1);
    if (key !== undefined && rest.length > 0) values.set(key, rest.join('/'));
  }
  return values;
}

/** Empty, and so without effect, for what is not clean text. */
function decoded(path: string): string {
  try {
    const text = decodeURIComponent(path);
    return /\p{C}/u.test(text) ? '' : text;
  } catch {
    return '';
  }
}
