import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import type { PeerCertificate } from 'node:tls';
import {
  Client,
  type ClientDuplexStream,
  credentials,
  Metadata,
  type ServiceError,
  type status,
} from '@grpc/grpc-js';
import { onTestFinished } from 'vitest';
import { Status as RpcStatus } from '../gen/google/rpc/status.ts';
import { PermissionDeniedDetails, PermissionDeniedDetails_Reason } from '../gen/spire/api/types/status.ts';
import type { X509SVID } from '../gen/spire/api/types/x509svid.ts';
import type { ClientMethod } from '../rpc/grpc-client.ts';
import { Certificate } from '../x509/certificate.ts';
import { buildCsr } from '../x509/csr.ts';
import { createSoftwareSigner } from '../x509/signature.ts';

/** SPIRE gives each of its calls this long. */
const rpcTimeoutMs = 30_000;
/** grpc-go reads no larger message. */
const maxReceiveBytes = 4 * 1024 * 1024;
/** `C=US, O=SPIRE`, both as PrintableString, as Go writes it. */
const spireSubject = Buffer.from('301d310b3009060355040613025553310e300c060355040a13055350495245', 'hex');

/** A certificate with its chain and key. */
export interface SpireSvid {
  readonly chain: readonly Certificate[];
  readonly key: KeyObject;
}

/** How a call failed, as SPIRE looks at it. */
export class SpireCallError extends Error {
  readonly code: status;
  /** Of `PermissionDeniedDetails`. */
  readonly reason: string | undefined;

  constructor({ code, details, metadata }: ServiceError) {
    super(details);
    this.code = code;
    this.reason = reasonIn(metadata);
  }
}

/** A channel to a server as grpc-go has it; closed when the current test ends. */
export class SpireConnection {
  readonly #client: Client;

  constructor(address: string, roots: string, svid?: SpireSvid) {
    // By name, so that there is an SNI.
    const target = `dns:localhost:${address.slice(address.lastIndexOf(':') + 1)}`;
    const tls = credentials.createSsl(
      Buffer.from(roots),
      svid === undefined ? null : Buffer.from(svid.key.export({ type: 'pkcs8', format: 'pem' })),
      svid === undefined ? null : Buffer.from(svid.chain.map((certificate) => certificate.toPem()).join('')),
      { checkServerIdentity: checkServerId },
    );
    this.#client = new Client(target, tls, {
      'grpc.primary_user_agent': 'grpc-go/1.76.0',
      'grpc.max_receive_message_length': maxReceiveBytes,
      'grpc.use_local_subchannel_pool': 1,
      'grpc.service_config': '{ "loadBalancingConfig": [ { "round_robin": {} } ] }',
      'grpc.service_config_disable_resolution': 1,
      'grpc.enable_http_proxy': 0,
      'grpc.enable_channelz': 0,
      'grpc.keepalive_time_ms': 10_000,
    });
    onTestFinished(() => this.close());
  }

  unary<Req, Res>(method: ClientMethod<Req, Res>, request: Req): Promise<Res> {
    const { path, requestSerialize, responseDeserialize } = method;
    return new Promise((done, failed) => {
      this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        new Metadata(),
        { deadline: Date.now() + rpcTimeoutMs },
        (error, response) => {
          if (error !== null || response === undefined) failed(new SpireCallError(error as ServiceError));
          else done(response);
        },
      );
    });
  }

  stream<Req, Res>(method: ClientMethod<Req, Res>): ClientDuplexStream<Req, Res> {
    const { path, requestSerialize, responseDeserialize } = method;
    const options = { deadline: Date.now() + rpcTimeoutMs };
    return this.#client.makeBidiStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      new Metadata(),
      options,
    );
  }

  close(): void {
    this.#client.close();
  }
}

/** The server is the one with this ID, whatever its host; the chain has been verified before. */
function checkServerId(_host: string, { raw }: PeerCertificate): Error | undefined {
  const { uris } = Certificate.parse(raw);
  const isServer = uris.length === 1 && /^spiffe:\/\/[^/]+\/spire\/server$/.test(uris[0] ?? '');
  return isServer ? undefined : new Error(`unexpected ID ${uris.join(', ')}`);
}

/** P-256, as all of SPIRE's agents have it. */
export function newKey(): KeyObject {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
}

/** A CSR as SPIRE makes it; an agent's own names nobody. */
export async function csrOf(key: KeyObject, id?: string): Promise<Buffer> {
  const uris = id === undefined ? [] : [id];
  return await buildCsr({ signer: createSoftwareSigner(key), subject: spireSubject, uris });
}

/** Throws when there is none. */
export function chainOf(svid: X509SVID | undefined): readonly Certificate[] {
  const chain = (svid?.certChain ?? []).map((der) => Certificate.parse(der));
  if (chain.length === 0) throw new Error('empty SVID certificate chain');
  return chain;
}

function reasonIn(metadata: Metadata): string | undefined {
  const [bytes] = metadata.get('grpc-status-details-bin');
  if (!Buffer.isBuffer(bytes)) return undefined;
  const found = RpcStatus.decode(bytes).details.find(({ typeUrl }) =>
    typeUrl.endsWith('/spire.api.types.PermissionDeniedDetails'),
  );
  if (found === undefined) return undefined;
  const { reason } = PermissionDeniedDetails.decode(found.value);
  return Object.entries(PermissionDeniedDetails_Reason).find(([, number]) => number === reason)?.[0];
}
