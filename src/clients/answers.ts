import type { X509SVID } from '../gen/spire/api/types/x509svid.ts';
import { chainFromWire } from '../rpc/messages.ts';
import { AppError } from '../runtime/error.ts';
import type { Certificate } from '../x509/certificate.ts';

/** How long one call may take. */
const callTimeoutMs = 30_000;
/** Entries of one page, and items of one batch. */
export const pageSize = 500;

/** What every method of a client takes. */
export interface ClientCall {
  readonly signal: AbortSignal;
}

/** The deadline of an ordinary call. */
export function limits({ signal }: ClientCall): { readonly signal: AbortSignal; readonly timeoutMs: number } {
  return { signal, timeoutMs: callTimeoutMs };
}

/** Throws `internal` when the chain is none. */
export function chainOf(svid: X509SVID | undefined): readonly Certificate[] {
  return received(chainFromWire, svid?.certChain ?? []);
}

/** What a server sends is not the caller's invalid argument. */
export function received<Wire, T>(parse: (wire: Wire) => T, wire: Wire): T {
  try {
    return parse(wire);
  } catch (cause) {
    throw cause instanceof AppError ? malformed(`the server's answer: ${cause.message}`) : cause;
  }
}

/** Does `work` for the items in batches of `pageSize`, one after the other; returns all results, in order. */
export async function inBatches<T, R>(
  items: readonly T[],
  work: (batch: readonly T[]) => Promise<readonly R[]>,
): Promise<readonly R[]> {
  const results: R[] = [];
  for (let start = 0; start < items.length; start += pageSize) {
    results.push(...(await work(items.slice(start, start + pageSize))));
  }
  return results;
}

/** A server answers each item of a batch; throws `internal` when it did not. */
export function requireAll(results: readonly unknown[], items: readonly unknown[]): void {
  if (results.length === items.length) return;
  throw malformed(`the server sent ${results.length} results for ${items.length} items`);
}

/** The error for an answer that no server should give. */
export function malformed(message: string): AppError {
  return new AppError('internal', message);
}

/** The same bytes as generated code takes them. */
export function bytes(data: Uint8Array): Buffer {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}
