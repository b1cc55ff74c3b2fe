import type { AgentStore } from '../../plugin-api/data-store.ts';
import type { Ask, ServerNodeAttestor } from '../../plugin-api/node-attestor.ts';
import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { SpiffeId, type TrustDomain } from '../../spiffe/spiffe-id.ts';
import { type CertificateRequest, parseCsr, verifyCsr } from '../../x509/csr.ts';
import type { Authority, SignedSvid } from '../authority/authority.ts';

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly attestors: ReadonlyMap<string, ServerNodeAttestor>;
  readonly agents: AgentStore;
  readonly authority: Authority;
  /** Told of each node that has proved itself: its attestor's transaction may have stored entries below it. */
  readonly entries: { adoptBelow(parentId: SpiffeId): Promise<void> };
  readonly log: Logger;
}

/** What an agent sends to be attested. */
export interface AttestationRequest {
  readonly type: string;
  readonly payload: Uint8Array;
  readonly csr: Uint8Array;
}

/**
 * Turns a node's proof into an agent SVID: the attestor verifies, the agent ID is derived in our trust domain, the
 * key's possession is proved, the certificate is signed, and what is handed out is recorded before it leaves.
 */
export class NodeAttestation {
  readonly #deps: Deps;
  readonly #agentTtlMs: number;

  constructor(deps: Deps, agentTtlMs: number) {
    this.#deps = deps;
    this.#agentTtlMs = agentTtlMs;
  }

  /** Throws the texts that SPIRE's users search for (`failed to attest: …`, `missing CSR`, …). */
  async attest(
    request: AttestationRequest,
    options: { readonly ask: Ask; readonly signal: AbortSignal },
  ): Promise<{ readonly svid: SignedSvid; readonly canReattest: boolean }> {
    const attestor = this.#deps.attestors.get(request.type);
    if (attestor === undefined) {
      const known = [...this.#deps.attestors.keys()].join(', ');
      throw new AppError(
        'failed-precondition',
        `error getting node attestor: could not find node attestor type "${request.type.slice(0, 60)}"; this server has ${known}`,
      );
    }
    const csr = readCsr(request.csr);
    // A key that we would never certify must not cost a one-time proof.
    if (csr.keyType === undefined) verifyCsr(csr);
    // The attestor first: a caller without a proof must not cost us a signature check.
    const node = await attestor.verify(request.payload, { ...options, publicKey: csr.spki });
    const id = this.#agentIdFrom(node.agentPath, request.type);
    await this.#deps.entries.adoptBelow(id);
    verifyCsr(csr);
    if ((await this.#deps.agents.find(id))?.banned === true) {
      throw new AppError('permission-denied', 'failed to attest: agent is banned', {
        reason: 'AGENT_BANNED',
      });
    }
    const svid = await this.#deps.authority.signAgentSvid({ id, spki: csr.spki, ttlMs: this.#agentTtlMs });
    await this.#deps.agents.recordAttestation({
      id,
      attestationType: request.type,
      serial: svid.serialDecimal,
      expiresAt: svid.notAfterMs / 1000,
      selectors: node.selectors,
      canReattest: node.canReattest,
    });
    this.#deps.log.info(
      { agentId: id.toString(), type: request.type, serial: svid.serialDecimal },
      'agent attested',
    );
    return { svid, canReattest: node.canReattest };
  }

  /** Signs a new certificate for an attested agent; it becomes the current one when the agent first uses it. */
  async renew(id: SpiffeId, csrDer: Uint8Array, signal: AbortSignal): Promise<SignedSvid> {
    const csr = readCsr(csrDer);
    verifyCsr(csr);
    // An agent that has been removed since it called has no use for a signature.
    signal.throwIfAborted();
    const svid = await this.#deps.authority.signAgentSvid({ id, spki: csr.spki, ttlMs: this.#agentTtlMs });
    await this.#deps.agents.recordRenewal(id, {
      serial: svid.serialDecimal,
      expiresAt: svid.notAfterMs / 1000,
    });
    this.#deps.log.info({ agentId: id.toString(), serial: svid.serialDecimal }, 'agent SVID renewed');
    return svid;
  }

  #agentIdFrom(path: string, type: string): SpiffeId {
    if (path === '/spire/server')
      throw new AppError('internal', 'agent ID cannot collide with the server ID');
    if (!path.startsWith('/spire/agent/')) {
      throw new AppError(
        'internal',
        `node attestor gave the agent path "${path}"; /spire/agent/… was expected`,
      );
    }
    const [, , , space = ''] = path.split('/');
    // A template may begin as it likes, but not make agents of one attestor out of those of another.
    if (space !== type && this.#deps.attestors.has(space)) {
      throw new AppError(
        'internal',
        `node attestor "${type}" gave the agent path "${path}", which belongs to "${space}"; change its agentPathTemplate`,
      );
    }
    return SpiffeId.of(this.#deps.trustDomain, path);
  }
}

/** Throws `invalid-argument` with the texts that SPIRE's users search for. */
function readCsr(der: Uint8Array): CertificateRequest {
  if (der.length === 0) throw new AppError('invalid-argument', 'missing CSR');
  return parseCsr(der);
}
