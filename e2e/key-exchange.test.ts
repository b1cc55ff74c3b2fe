import { once } from 'node:events';
import { connect } from 'node:net';
import { expect, it } from 'vitest';
import { EnvoyProcess } from './support/envoy.ts';
import { describeWith } from './support/parts.ts';
import { createProxyIdentity } from './support/proxy-identity.ts';
import type { Sandbox } from './support/sandbox.ts';
import { SignetAgent, SignetServer, signet } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

/** An Envoy that passes TCP on to the server with TLS of its own (BoringSSL), and these groups alone. */
async function startEnvoy(sandbox: Sandbox, server: SignetServer, curve: string) {
  const [host, port] = server.address.split(':');
  const address = { socket_address: { address: host, port_value: Number(port) } };
  const config = {
    admin: { address: { pipe: { path: 'admin.sock' } } },
    static_resources: {
      listeners: [
        {
          name: 'in',
          address: { socket_address: { address: '127.0.0.1', port_value: 0 } },
          filter_chains: [
            {
              filters: [
                {
                  name: 'envoy.filters.network.tcp_proxy',
                  typed_config: {
                    '@type': 'type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy',
                    stat_prefix: 'in',
                    cluster: 'server',
                  },
                },
              ],
            },
          ],
        },
      ],
      clusters: [
        {
          name: 'server',
          load_assignment: {
            cluster_name: 'server',
            endpoints: [{ lb_endpoints: [{ endpoint: { address } }] }],
          },
          transport_socket: {
            name: 'envoy.transport_sockets.tls',
            typed_config: {
              '@type': 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext',
              common_tls_context: {
                alpn_protocols: ['h2'],
                tls_params: { tls_maximum_protocol_version: 'TLSv1_3', ecdh_curves: [curve] },
              },
            },
          },
        },
      ],
    },
  };
  const identity = await createProxyIdentity(sandbox, `witness-${curve}`);
  return await EnvoyProcess.start(sandbox, identity, { 'envoy.yaml': JSON.stringify(config) });
}

/** Makes one connection through it; the counters of its TLS to the server that are not 0 then. */
async function connectThrough(envoy: EnvoyProcess): Promise<readonly string[]> {
  const port = await envoy.until('its port', async () => (await envoy.port('in')) || undefined);
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  try {
    return await envoy.until('a handshake, or none', async () => {
      const stats = await envoy.stats(/^cluster\.server\.ssl\.(curves\.|connection_error)/);
      const counted = [...stats].flatMap(([name, value]) => (value > 0 ? [name] : []));
      return counted.length > 0 && counted.map((name) => name.replace('cluster.server.ssl.', ''));
    });
  } finally {
    socket.destroy();
  }
}

describeWith({ envoy: true, linux: true }, 'the key exchange of a server', () => {
  it('that requires hybrids is X25519MLKEM768 with Envoy, and nothing with an Envoy that has only X25519', async () => {
    const sandbox = await testSandbox();
    const server = await SignetServer.start(sandbox, { config: { tls: { postQuantum: 'require' } } });
    expect(await server.admin('health')).toContain('post-quantum key exchange: require');
    expect(await connectThrough(await startEnvoy(sandbox, server, 'X25519MLKEM768'))).toEqual([
      'curves.X25519MLKEM768',
    ]);
    expect(await connectThrough(await startEnvoy(sandbox, server, 'X25519'))).toEqual(['connection_error']);
    await server.process.waitForLine(
      /the client offers no key exchange of ours \(tls\.postQuantum: require; /,
    );

    // Without a setting an agent has it, and its administrators see that.
    const agent = await SignetAgent.join(sandbox, { server });
    expect(await signet(['health', '--role', 'agent', '--socket', agent.adminSocket])).toContain(
      'key exchange X25519MLKEM768',
    );
  });

  it.each(['X25519MLKEM768', 'X25519'])(
    'that prefers hybrids is %s with an Envoy that has only that',
    async (curve) => {
      const sandbox = await testSandbox();
      const server = await SignetServer.start(sandbox);
      expect(await connectThrough(await startEnvoy(sandbox, server, curve))).toEqual([`curves.${curve}`]);
    },
  );
});
