import { once } from 'node:events';
import { createServer, request } from 'node:https';
import type { SecureContextOptions } from 'node:tls';
import type { Sandbox } from './sandbox.ts';
import type { CertificateWithKey } from './signet.ts';

/** How the listener is called; without a certificate none is shown. */
export interface TlsCall {
  readonly port: number;
  readonly identity?: CertificateWithKey;
  readonly headers?: Readonly<Record<string, string>>;
  readonly maxVersion?: 'TLSv1.2' | 'TLSv1.3';
}

/** One GET over TLS on a connection of its own; does not look at who answers. Rejects when it is refused. */
export async function callOverTls({
  port,
  identity,
  headers = {},
  maxVersion = 'TLSv1.3',
}: TlsCall): Promise<{ readonly status: number; readonly body: string }> {
  return await new Promise((resolve, reject) => {
    const call = request(
      {
        host: '127.0.0.1',
        port,
        headers,
        agent: false,
        timeout: 5_000,
        rejectUnauthorized: false,
        maxVersion,
        ...identity,
      },
      (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          body += chunk;
        });
        response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
        response.on('error', reject);
      },
    );
    call.on('timeout', () => call.destroy(new Error('no answer')));
    call.on('error', reject);
    call.end();
  });
}

/** An HTTPS server on 127.0.0.1 that answers 200 to whoever comes, with a certificate that can be exchanged. */
export async function startTlsServer(
  sandbox: Sandbox,
  identity: CertificateWithKey,
): Promise<{ readonly port: number; present(identity: CertificateWithKey): void }> {
  const common: SecureContextOptions = { minVersion: 'TLSv1.3' };
  const server = createServer({ ...common, ...identity }, (_request, response) => response.end('served'));
  // Refused by the peer: what these tests are about.
  server.on('tlsClientError', () => undefined);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  sandbox.onDispose(() => {
    server.close();
    server.closeAllConnections();
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return { port: address.port, present: (next) => server.setSecureContext({ ...common, ...next }) };
}
