import { accessTable, type CallerKind } from '../src/server/api/access-table.ts';
import { callLimits } from '../src/server/api/call-limits.ts';
import { missingMethods } from '../src/server/api/missing-methods.ts';

const introduction = `# The server API, method by method

Generated from the program by \`make generate\`; do not edit. The methods are those of SPIRE's server API under their
own names, so that clients generated from the public protos work unchanged; besides them there are gRPC health,
reflection and Signet's own services.

Who may call is proved, never said: by the admin socket (whoever can open it), or by the client certificate on
\`listen\`.

- **admin socket**: the server's \`adminSocket\`. Not limited.
- **administrators**: an X.509-SVID of this trust domain whose SPIFFE ID has an entry with \`admin\`, or is in
  \`adminIds\`. SPIFFE IDs of other trust domains are not possible yet: client certificates are verified by our own
  bundle only.
- **agents**: the X.509-SVID that attestation gave to an agent that is neither banned nor deleted. Who is refused gets
  the reason as \`spire.api.types.PermissionDeniedDetails\`.
- **downstream servers**: an X.509-SVID whose SPIFFE ID has an entry with \`downstream\`.
- **anybody**: also without a client certificate.

Everybody else gets \`PERMISSION_DENIED: authorization denied for method …\`. A client certificate that does not verify,
or that has no URI name, more than one or one that is no SPIFFE ID, gets \`UNAUTHENTICATED\` with the reason for every
call. Permission is asked for first: \`UNIMPLEMENTED\` with its reason is answered only to who may call the method.

A limit is a setting (see the [configuration reference](configuration.md)); beyond it a call gets
\`RESOURCE_EXHAUSTED\` with the time after which to try again as \`google.rpc.RetryInfo\`.
`;

const ending = `
## On the agent

| Socket | Who may call | Services |
|---|---|---|
| \`workloadSocket\` | processes of this host, each as the kernel names it | \`SpiffeWorkloadAPI\`, \`envoy.service.secret.v3.SecretDiscoveryService\`, \`grpc.health.v1.Health\` |
| \`adminSocket\` | whoever can open it | \`spire.api.agent.logger.v1.Logger\`, \`signet.health.v1.Health\`, \`signet.proxy.v1.Proxies\`, \`grpc.health.v1.Health\`, gRPC reflection |

\`grpc.health.v1.Health\` answers \`SERVING\` as long as no part of the process is "not ready" in \`signet health\`.
`;

const callerNames = {
  any: 'anybody',
  local: 'admin socket',
  admin: 'administrators',
  agent: 'agents',
  downstream: 'downstream servers',
} as const satisfies Record<CallerKind, string>;

/** `docs/spire-api.md`: who may call each method, how it is limited, and why it is missing if it is. */
export function apiReference(): string {
  // A test has it that the table names every method there is.
  const byService = Map.groupBy(Object.keys(accessTable).sort(), (path) => path.split('/')[1] ?? '');
  const tables = [...byService].map(([service, paths]) =>
    [
      `\n## \`${service}\`\n`,
      '| Method | Who may call | Limit | State |',
      '|---|---|---|---|',
      ...paths.map(row),
    ].join('\n'),
  );
  return `${introduction}${tables.join('\n')}\n${ending}`;
}

function row(path: string): string {
  const name = path.slice(path.lastIndexOf('/') + 1);
  const kinds: readonly CallerKind[] = accessTable[path as keyof typeof accessTable];
  const limit = callLimits[path];
  const limited = limit === undefined ? '' : `\`limits.${limit.of}\``;
  const missing = missingMethods[path];
  const state = missing === undefined ? 'served' : `Unimplemented: ${missing}`;
  return `| \`${name}\` | ${kinds.map((kind) => callerNames[kind]).join(', ')} | ${limited} | ${state} |`;
}
