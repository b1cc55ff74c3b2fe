import { connect } from 'node:tls';
import { trySignet } from '../e2e/support/signet.ts';
import type { ControlPlane, Mesh } from './mesh.ts';
import type { Terminal } from './terminal.ts';

/** Shows two without identity being refused, one by the service, one by the agent; throws when one is let in. */
export async function showRefusals(mesh: Mesh, { agent }: ControlPlane, terminal: Terminal): Promise<void> {
  const alert = await callWithoutCertificate(mesh.servicePort);
  terminal.good('refused', `a TLS client without a certificate; the backend says "${alert}"`);
  const { code, stderr } = await trySignet(['workload', 'x509', '--socket', agent.socket]);
  const answer = stderr.trim().replace(/^signet: /, '');
  if (code !== 1 || !answer.includes('no identity issued')) {
    throw new Error(`the agent should refuse "signet workload x509": exit code ${code} ${answer}`);
  }
  terminal.good(
    'refused',
    `a process of user ${process.getuid?.()} that is not registered; the agent says "${answer}"`,
  );
}

/** How the service refuses a client that presents no certificate. */
async function callWithoutCertificate(port: number): Promise<string> {
  return await new Promise((resolve, reject) => {
    // It believes any server: all that counts is whether it is let in.
    const socket = connect({ host: '127.0.0.1', port, rejectUnauthorized: false, timeout: 5_000 });
    let isConnected = false;
    const refuse = (reason: string) => {
      if (isConnected) resolve(reason);
      else reject(new Error(`the backend does not answer: ${reason}`));
    };
    socket.on('connect', () => {
      isConnected = true;
    });
    // With TLS 1.3 the client is done first and hears of its refusal when it reads.
    socket.on('secureConnect', () => socket.write('GET / HTTP/1.1\r\nhost: backend\r\n\r\n'));
    socket.on('data', (data) => reject(new Error(`the backend answered without a certificate: ${data}`)));
    socket.on('timeout', () => reject(new Error('the backend left a client without a certificate waiting')));
    socket.on('error', (error: Error & { reason?: string }) => refuse(error.reason ?? error.message));
    socket.on('close', () => {
      socket.destroy();
      refuse('connection closed');
    });
  });
}
