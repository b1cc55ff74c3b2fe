import { AppError, type ErrorCode } from '../runtime/error.ts';
import type { Certificate } from '../x509/certificate.ts';

interface AgentRecord {
  serial: string;
  newSerial: string;
  isBanned: boolean;
}

/** What a SPIRE server knows of its agents, and how it refuses those that are not in good standing. */
export class SpireAgentRecords {
  readonly #agents = new Map<string, AgentRecord>();

  attested(id: string, serial: string): void {
    this.#agents.set(id, { serial, newSerial: '', isBanned: false });
  }

  /** The new certificate counts from its first use. */
  renewed(id: string, serial: string): void {
    const agent = this.#agents.get(id);
    if (agent !== undefined) agent.newSerial = serial;
  }

  banAll(): void {
    for (const agent of this.#agents.values()) agent.isBanned = true;
  }

  /** Throws `permission-denied` with SPIRE's reason. */
  require(id: string, certificate: Certificate, nowMs: number): void {
    const agent = this.#agents.get(id);
    const serial = certificate.serialDecimal;
    const deny = (reason: string, text: string) => refused('permission-denied', text, reason);
    if (certificate.notAfterMs <= nowMs) throw deny('AGENT_EXPIRED', `agent "${id}" SVID is expired`);
    if (agent === undefined) throw deny('AGENT_NOT_ATTESTED', `agent "${id}" is not attested`);
    if (agent.isBanned) throw deny('AGENT_BANNED', `agent "${id}" is banned`);
    if (serial === agent.newSerial) {
      agent.serial = serial;
      agent.newSerial = '';
    }
    if (serial !== agent.serial) {
      const text = `agent "${id}" expected to have serial number "${agent.serial}"; has "${serial}"`;
      throw deny('AGENT_NOT_ACTIVE', text);
    }
  }
}

/** An error as a SPIRE server answers with it. */
export function refused(code: ErrorCode, text: string, reason?: string): AppError {
  return new AppError(code, text, reason === undefined ? {} : { reason });
}
