import { AdminClient } from '../clients/admin/admin-client.ts';
import { verifyServerChain } from '../clients/server-verification.ts';
import { WorkloadClient, type WorkloadX509Svid } from '../clients/workload-client.ts';
import { type ClientChannel, tlsChannel } from '../rpc/grpc-client.ts';
import { AppError, errorText, isAppError } from '../runtime/error.ts';
import { systemClock } from '../runtime/time.ts';

/**
 * Runs `work` with a client of the server at `HOST:PORT`: remote administration, with this process's own first SVID
 * from the Workload API (SPIFFE_ENDPOINT_SOCKET, else `workloadSocket`).
 */
export async function withRemoteServer<T>(
  address: string,
  options: { readonly workloadSocket: string; readonly signal: AbortSignal },
  work: (client: AdminClient, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const own = await ownSvid(options);
  const channel = channelAs(own, address);
  try {
    return await work(new AdminClient(channel), options.signal);
  } catch (error) {
    if (!isAppError(error, 'permission-denied')) throw error;
    throw new AppError(
      error.code,
      `${error.message}; called as "${own.svid.id}", which needs \`admin\` or adminIds`,
    );
  } finally {
    channel.close();
  }
}

async function ownSvid(options: {
  readonly workloadSocket: string;
  readonly signal: AbortSignal;
}): Promise<WorkloadX509Svid> {
  const endpoint = process.env['SPIFFE_ENDPOINT_SOCKET'] ?? `unix://${options.workloadSocket}`;
  const workload = WorkloadClient.connect(endpoint);
  try {
    const [own] = (await workload.fetchX509Svids(options)).svids;
    if (own !== undefined) return own;
    throw new AppError('permission-denied', 'no identity issued');
  } catch (error) {
    throw new AppError(
      'unavailable',
      `--server needs an SVID from the Workload API at "${endpoint}": ${errorText(error)}`,
    );
  } finally {
    workload.close();
  }
}

/** The server must show its SPIFFE ID under the bundle that came with our SVID. */
function channelAs({ svid, bundle, privateKeyPem }: WorkloadX509Svid, address: string): ClientChannel {
  const { trustDomain } = svid.id;
  return tlsChannel({
    address,
    tls: {
      certificateChainPem: svid.chain.map((certificate) => certificate.toPem()).join(''),
      privateKeyPem,
      verifyServer: (chain) => verifyServerChain(chain, { trustDomain, bundle, nowMs: systemClock.now() }),
    },
  });
}
