import { checkout } from '../e2e/support/checkout.ts';
import type { CommandGroup, ControlPlane, Mesh } from './mesh.ts';
import type { Terminal } from './terminal.ts';

/** Prints commands for another terminal, to be copied as they are. */
export function showCommands(
  mesh: Mesh,
  { server, agent }: ControlPlane,
  { dir, terminal }: { readonly dir: string; readonly terminal: Terminal },
): void {
  const groups: readonly CommandGroup[] = [
    {
      about: 'Signet: is it well, who is registered, which roots does everybody trust',
      commands: [
        'bin/signet health --role server',
        'bin/signet health --role agent',
        'bin/signet entry list',
        'bin/signet bundle show -o json',
      ],
    },
    ...mesh.commands,
    {
      about: "The backend's certificate, seen from outside: again after a rotation it is another one",
      commands: [
        `openssl s_client -connect 127.0.0.1:${mesh.servicePort} </dev/null 2>/dev/null | \\\n` +
          '    openssl x509 -noout -ext subjectAltName -serial -enddate',
      ],
    },
    {
      about: "You: nobody, until you register this checkout's Node, run by you",
      commands: [
        'bin/signet workload x509',
        `bin/signet entry create --spiffe-id spiffe://${server.trustDomain}/me --x509-ttl 20s \\\n` +
          `    --selector unix:uid:$(id -u) --selector unix:path:${process.execPath}`,
        'bin/signet workload x509 --watch',
      ],
    },
  ];
  const short = (path: string) => path.replace(dir, '$DEMO');
  terminal.write(`
${terminal.style('bold', 'Look around')}, in another terminal of the same user, beginning with:

  cd ${checkout.replace(/\/$/, '')}
  export DEMO=${dir}
  export SIGNET_SERVER_SOCKET=${short(server.adminSocket)}
  export SIGNET_AGENT_ADMIN_SOCKET=${short(agent.adminSocket)}
  export SPIFFE_ENDPOINT_SOCKET=unix://${short(agent.socket)}
`);
  for (const { about, commands } of groups) {
    terminal.write(`  ${terminal.style('dim', `# ${about}`)}`);
    terminal.write(`${commands.map((command) => `  ${short(command)}\n`).join('')}`);
  }
}
