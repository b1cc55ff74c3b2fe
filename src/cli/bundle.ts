import { type Command, Option } from 'commander';
import { bundleToSpiffeJwks } from '../spiffe/bundle.ts';
import { command, noun, type ServerOptions, withServer, withServerOptions } from './command.ts';
import { print, printRecord } from './output.ts';

/** `signet bundle`: trust bundles. */
export function bundleCommand(): Command {
  const show = withServerOptions(
    command(
      'show',
      "print our trust domain's bundle",
      'signet bundle show > bundle.pem\nsignet bundle show -o json',
    ),
  )
    .addOption(
      new Option('--format <format>', 'pem, or spiffe for a SPIFFE bundle document')
        .choices(['pem', 'spiffe'])
        .default('pem'),
    )
    .action(async (options: ServerOptions & { format: string }) => {
      const bundle = await withServer(options, (client, signal) => client.bundles.getOwn({ signal }));
      if (options.output !== 'table') {
        return printRecord(
          {
            trustDomain: bundle.trustDomain.name,
            sequence: bundle.sequence,
            fingerprints: bundle.certificates().map((root) => `sha256:${root.fingerprint}`),
            pem: bundle.toPem(),
          },
          options.output,
        );
      }
      print(options.format === 'spiffe' ? bundleToSpiffeJwks(bundle) : bundle.toPem());
    });
  return noun('bundle', 'trust bundles', [show]);
}
