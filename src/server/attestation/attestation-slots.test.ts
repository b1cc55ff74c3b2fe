import { describe, expect, it } from 'vitest';
import { AttestationSlots } from './attestation-slots.ts';

const full = expect.objectContaining({ code: 'resource-exhausted', reason: undefined });

describe('the places of attestations', () => {
  it('are as many as the setting says, and free again when left', () => {
    const slots = new AttestationSlots(2);
    const first = slots.enter();
    slots.enter();
    expect(() => slots.enter()).toThrow(full);
    first.leave();
    first.leave();
    slots.enter();
    expect(() => slots.enter()).toThrow(full);
  });

  it('are not taken by those whose agent has yet to answer, who get theirs back at once', () => {
    const slots = new AttestationSlots(1);
    const asking = slots.enter();
    asking.leave();
    const other = slots.enter();
    asking.reenter();
    asking.reenter();
    other.leave();
    expect(() => slots.enter()).toThrow(full);
    asking.leave();
    slots.enter();
  });

  it('are refused with a time to come back that differs', () => {
    const slots = new AttestationSlots(1);
    slots.enter();
    const waits = Array.from({ length: 50 }, () => {
      try {
        slots.enter();
      } catch (error) {
        return (error as { retryAfterMs: number }).retryAfterMs;
      }
      return 0;
    });
    expect(Math.min(...waits)).toBeGreaterThanOrEqual(250);
    expect(Math.max(...waits)).toBeLessThanOrEqual(1_000);
    expect(new Set(waits).size).toBeGreaterThan(1);
  });

  it('can be without a bound', () => {
    const slots = new AttestationSlots(0);
    for (let i = 0; i < 1_000; i += 1) slots.enter();
  });
});
