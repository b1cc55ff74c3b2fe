import { z } from 'zod';
import { errorText } from '../../runtime/error.ts';
import { AgentPathTemplate } from './agent-path-template.ts';

const path = z.string().min(1);

/** What SPIRE's templates can name, with the values below `URISanSelectors` of this certificate. */
const variables: ReadonlySet<string> = new Set([
  'PluginName',
  'TrustDomain',
  'Fingerprint',
  'SerialNumberHex',
  'Subject.CommonName',
]);

const agentPathTemplate = z.string().transform((text, context) => {
  try {
    return AgentPathTemplate.parse(
      text,
      (name) => variables.has(name) || /^URISanSelectors\.[^.]+$/.test(name),
    );
  } catch (error) {
    context.addIssue({ code: 'custom', message: errorText(error) });
    return z.NEVER;
  }
});

/** Settings of the server half. */
export const x509popServerConfig = z
  .strictObject({
    caFile: path
      .optional()
      .describe('PEM file with the authorities that certify nodes. Read again when it changes.'),
    caFiles: z.array(path).min(1).optional().describe('The same, when they are in more than one file.'),
    agentPathTemplate: agentPathTemplate
      .prefault('/{{ .PluginName }}/{{ .Fingerprint }}')
      .describe(
        'Path of agents below `/spire/agent`. Variables: `.PluginName`, `.TrustDomain`, `.Fingerprint`, `.SerialNumberHex`, `.Subject.CommonName`, `.URISanSelectors.KEY`.',
      ),
    revocationListFile: path
      .optional()
      .describe(
        'PEM or DER file with the current revocation list of each authority in use. Without a current list nobody is attested. Read again when it changes.',
      ),
  })
  .refine(({ caFile, caFiles }) => (caFile === undefined) !== (caFiles === undefined), {
    error: 'expected one of caFile and caFiles',
  });

/** Checked settings of the server half. */
export type X509popServerConfig = z.output<typeof x509popServerConfig>;

/** Settings of the agent half. */
export const x509popAgentConfig = z.strictObject({
  certFile: path.describe(
    "PEM file with the node's certificate, and after it any intermediates. Read at each attestation.",
  ),
  keyFile: path.describe('PEM file with its private key, not encrypted; only the agent may read it (0600).'),
  intermediatesFile: path.optional().describe('PEM file with more intermediates.'),
});

/** Checked settings of the agent half. */
export type X509popAgentConfig = z.output<typeof x509popAgentConfig>;
