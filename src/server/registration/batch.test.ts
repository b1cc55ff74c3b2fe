import { expect, it } from 'vitest';
import { AppError } from '../../runtime/error.ts';
import { attemptEach, forAccepted } from './batch.ts';

const refusal = new AppError('invalid-argument', 'no');

it('keeps what was refused in its place, and works on the others at once', async () => {
  const batches: (readonly number[])[] = [];
  const items = attemptEach([1, 2, 3, 4], (n) => {
    if (n % 2 === 0) throw refusal;
    return n;
  });
  const results = await forAccepted(items, async (accepted) => {
    batches.push(accepted);
    return accepted.map((n) => (n === 3 ? refusal : `done ${n}`));
  });
  expect(results).toEqual(['done 1', refusal, refusal, refusal]);
  expect(batches).toEqual([[1, 3]]);
});

it('has nothing done when nothing is left', async () => {
  const never = () => Promise.reject(new Error('called'));
  expect(await forAccepted([refusal], never)).toEqual([refusal]);
  expect(await forAccepted([], never)).toEqual([]);
});

it('passes on errors that are nobody’s fault', () => {
  const broken = () => attemptEach([1], () => JSON.parse('{'));
  expect(broken).toThrow(SyntaxError);
});

it('fails when a result is missing, rather than giving one item the result of another', async () => {
  await expect(forAccepted([1, 2], async () => ['one'])).rejects.toMatchObject({ code: 'internal' });
});
