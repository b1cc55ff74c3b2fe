import type { Status } from '../../gen/spire/api/types/status.ts';
import type { X509SVID } from '../../gen/spire/api/types/x509svid.ts';
import { spiffeIdToWire } from '../../rpc/messages.ts';
import { itemStatus } from '../../rpc/status.ts';
import { AppError, isAppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { SignedSvid } from '../authority/authority.ts';

/** A signed SVID as SPIRE writes it: whole seconds, DER certificates, leaf first. */
export function svidToWire(svid: SignedSvid): X509SVID {
  return {
    certChain: svid.chain.map((der) => Buffer.from(der)),
    id: spiffeIdToWire(svid.id),
    expiresAt: BigInt(Math.floor(svid.notAfterMs / 1000)),
    hint: '',
  };
}

/** The status of an item that failed. What is our own fault is logged here: its caller learns only that it happened. */
export function failedStatus(error: unknown, log: Logger): Status {
  if (!isAppError(error) || error.code === 'internal') log.error({ error }, 'item of a batch failed');
  return itemStatus(error);
}

/** Throws `resource-exhausted` for more `items` than one call may have. */
export function requireBatch(items: readonly unknown[], max: number, what = 'items'): void {
  if (items.length <= max) return;
  throw new AppError('resource-exhausted', `batch of ${items.length} ${what}; at most ${max} are allowed`);
}

/** What `parse` returns; its error gets `what` in front, as SPIRE writes them. */
export function explained<T>(what: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw isAppError(error) ? new AppError(error.code, `${what}: ${error.message}`) : error;
  }
}
