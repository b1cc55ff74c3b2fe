import { hash } from 'node:crypto';
import type { WorkloadX509Svid } from '../../clients/workload-client.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { bundleToSpiffeJwks } from '../../spiffe/bundle-document.ts';

/** One file as it is to be. */
export interface PlannedFile {
  /** Without a directory. */
  readonly name: string;
  readonly content: string;
  /** Permission bits. */
  readonly mode: number;
}

/** Files that belong together: readers see all of one set or all of another. */
export type FileSet = readonly PlannedFile[];

/** Where the certificates between leaf and root go. */
export const chainPlaces = ['joined', 'split', 'bundle'] as const;

/** What becomes of the bundles of other trust domains. */
export const federatedPlaces = ['files', 'joined', 'none'] as const;

/** How a bundle is written. */
export const bundleFormats = ['pem', 'spiffe'] as const;

/** Names and modes of the files of an X.509 identity, and what goes where. */
export interface X509Layout {
  readonly certName: string;
  readonly keyName: string;
  readonly bundleName: string;
  readonly intermediatesName: string;
  /** Key and chain in one file besides; undefined = no such file. */
  readonly combinedName: string | undefined;
  readonly certMode: number;
  readonly keyMode: number;
  readonly chain: (typeof chainPlaces)[number];
  readonly federated: (typeof federatedPlaces)[number];
}

/** Begins the name of each file with another trust domain's bundle; no other file may be named so. */
export const federatedPrefix = 'federated.';

/** The files of one identity: certificate, key, trust bundle, and what the layout asks for besides. */
export function planX509Files(
  identity: WorkloadX509Svid,
  bundles: ReadonlyMap<string, Bundle>,
  layout: X509Layout,
): FileSet {
  const { chain, leaf } = identity.svid;
  const intermediates = chain.slice(1).map((certificate) => certificate.toPem());
  const whole = [leaf.toPem(), ...intermediates].join('');
  const foreign = [...bundles.values()].filter(
    ({ trustDomain }) => !trustDomain.equals(identity.bundle.trustDomain),
  );
  const { certMode, keyMode } = layout;
  const trusted = [
    ...(layout.chain === 'bundle' ? intermediates : []),
    identity.bundle.toPem(),
    ...(layout.federated === 'joined' ? foreign.map((bundle) => bundle.toPem()) : []),
  ];
  return [
    { name: layout.certName, content: layout.chain === 'joined' ? whole : leaf.toPem(), mode: certMode },
    { name: layout.keyName, content: identity.privateKeyPem, mode: keyMode },
    { name: layout.bundleName, content: trusted.join(''), mode: certMode },
    // Also when it is empty: a path in a configuration must not come and go.
    ...(layout.chain === 'split'
      ? [{ name: layout.intermediatesName, content: intermediates.join(''), mode: certMode }]
      : []),
    ...(layout.combinedName === undefined
      ? []
      : [{ name: layout.combinedName, content: identity.privateKeyPem + whole, mode: keyMode }]),
    ...(layout.federated === 'files'
      ? foreign.map((bundle) =>
          bundleFile(bundle, { prefix: federatedPrefix, format: 'pem', mode: certMode }),
        )
      : []),
  ];
}

/** One file per trust domain, named after it: `example.org.pem`, or `.json` for SPIFFE bundle documents. */
export function planBundleFiles(
  bundles: ReadonlyMap<string, Bundle>,
  layout: { readonly format: (typeof bundleFormats)[number]; readonly mode: number },
): FileSet {
  return [...bundles.values()].map((bundle) => bundleFile(bundle, { prefix: '', ...layout }));
}

/** True when both hold the same files with the same content and modes. */
export function isSameSet(a: FileSet, b: FileSet): boolean {
  return (
    a.length === b.length &&
    a.every((file, index) => {
      const other = b[index];
      return file.name === other?.name && file.content === other.content && file.mode === other.mode;
    })
  );
}

function bundleFile(
  bundle: Bundle,
  options: {
    readonly prefix: string;
    readonly format: (typeof bundleFormats)[number];
    readonly mode: number;
  },
): PlannedFile {
  const { prefix, format, mode } = options;
  const stem = `${prefix}${stemOf(bundle.trustDomain.name)}`;
  if (format === 'spiffe') return { name: `${stem}.json`, content: bundleToSpiffeJwks(bundle), mode };
  return { name: `${stem}.pem`, content: bundle.toPem(), mode };
}

/** A trust domain's name may have 255 bytes, as may a file's: with an ending it would stop every update. */
function stemOf(name: string): string {
  return name.length <= 200 ? name : `sha256-${hash('sha256', name, 'hex')}`;
}
