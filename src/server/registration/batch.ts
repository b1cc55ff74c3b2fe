import { AppError, isAppError } from '../../runtime/error.ts';

/** Does `work` for each item; what it refuses is the AppError in its place. */
export function attemptEach<T, R>(items: readonly T[], work: (item: T) => R): readonly (R | AppError)[] {
  return items.map((item) => {
    try {
      return work(item);
    } catch (error) {
      if (isAppError(error)) return error;
      throw error;
    }
  });
}

/** Gives `work` the items that are no refusals; its results and the refusals come back in the order of the items. */
export async function forAccepted<T, R>(
  items: readonly (T | AppError)[],
  work: (accepted: readonly T[]) => Promise<readonly (R | AppError)[]>,
): Promise<readonly (R | AppError)[]> {
  const accepted = items.filter((item): item is T => !isAppError(item));
  const results = accepted.length === 0 ? [] : await work(accepted);
  if (results.length !== accepted.length) {
    throw new AppError('internal', `${results.length} results for ${accepted.length} items of a batch`);
  }
  const next = results.values();
  return items.map((item) => (isAppError(item) ? item : (next.next().value as R | AppError)));
}
