import { describe, expect, test } from 'vitest';
import { maxTries, Quarantine } from './quarantine.ts';

function refusedOnce(isCulprit = false): Quarantine {
  const quarantine = new Quarantine();
  quarantine.refuse('a', 0, { at: 5, isCulprit });
  return quarantine;
}

describe('a content that was refused', () => {
  test('is not sendable, and its next bytes are others', () => {
    const quarantine = refusedOnce();
    expect(quarantine.verdictOn('a')).toBe('refused');
    expect(quarantine.saltOf('a')).toBe(1);
    expect(quarantine.verdictOn('b')).toBe('sendable');
    expect(quarantine.hasRefusals).toBe(true);
  });

  const absolutions: readonly {
    name: string;
    isCulprit: boolean;
    absolve: (q: Quarantine) => void;
    verdict: string;
  }[] = [
    {
      name: 'what was out of order then came into order',
      isCulprit: false,
      absolve: (q) => q.absolveSince(5),
      verdict: 'retry',
    },
    {
      name: 'what came into order was in order then',
      isCulprit: false,
      absolve: (q) => q.absolveSince(6),
      verdict: 'refused',
    },
    {
      name: 'something new was taken',
      isCulprit: true,
      absolve: (q) => q.absolveForSomethingNew(),
      verdict: 'retry',
    },
    {
      name: 'there is nothing better to do',
      isCulprit: false,
      absolve: (q) => q.absolveDoubtful('a'),
      verdict: 'retry',
    },
  ];
  test.each(absolutions)('when $name: $verdict', ({ isCulprit, absolve, verdict }) => {
    const quarantine = refusedOnce(isCulprit);
    absolve(quarantine);
    expect(quarantine.verdictOn('a')).toBe(verdict);
  });

  test('is sendable again, in the bytes that were acknowledged', () => {
    const quarantine = refusedOnce();
    quarantine.absolveSince(0);
    expect(quarantine.accept('a', 0), 'the bytes that were refused').toBe(false);
    expect(quarantine.accept('a', 1)).toBe(true);
    expect(quarantine.verdictOn('a')).toBe('sendable');
    expect(quarantine.saltOf('a')).toBe(1);
    expect(quarantine.hasRefusals).toBe(false);
  });

  test('counts once, however many streams refuse the same bytes', () => {
    const quarantine = refusedOnce();
    for (let stream = 0; stream < 10; stream += 1) quarantine.refuse('a', 0, { at: 6, isCulprit: false });
    expect(quarantine.doubtfulTries('a')).toBe(1);
    expect(quarantine.saltOf('a')).toBe(1);
  });

  const reasons: readonly { reason: keyof typeof maxTries; absolve: (q: Quarantine) => void }[] = [
    { reason: 'doubtful', absolve: (q) => q.absolveDoubtful('a') },
    { reason: 'somethingNew', absolve: (q) => q.absolveForSomethingNew() },
    { reason: 'inOrder', absolve: (q) => q.absolveSince(0) },
  ];
  test.each(reasons)('is tried a few times in all: $reason', ({ reason, absolve }) => {
    const quarantine = new Quarantine();
    for (let tried = 0; tried < maxTries[reason]; tried += 1) {
      expect(quarantine.verdictOn('a')).toBe(tried === 0 ? 'sendable' : 'retry');
      quarantine.refuse('a', tried, { at: tried, isCulprit: false });
      absolve(quarantine);
    }
    expect(quarantine.verdictOn('a')).toBe('refused');
  });

  test('is in doubt unless it was surely to blame, and not for ever', () => {
    expect(refusedOnce(true).doubtfulTries('a')).toBeUndefined();
    expect(new Quarantine().doubtfulTries('a')).toBeUndefined();
    const quarantine = refusedOnce();
    expect(quarantine.doubtfulTries('a')).toBe(1);
    quarantine.absolveDoubtful('a');
    quarantine.refuse('a', 1, { at: 6, isCulprit: false });
    expect(quarantine.doubtfulTries('a')).toBeUndefined();
  });

  test('waits for the answer to other bytes that are on their way, unless it was tried often enough', () => {
    const quarantine = new Quarantine();
    quarantine.useOtherBytes('a');
    quarantine.refuse('a', 0, { at: 1, isCulprit: false });
    expect(quarantine.verdictOn('a')).toBe('sendable');
    expect(quarantine.saltOf('a')).toBe(1);
  });
});

test('what is remembered is bounded, by the number of contents and of other bytes', () => {
  const quarantine = new Quarantine();
  for (let i = 0; i < 100; i += 1) quarantine.refuse(`content ${i}`, 0, { at: i, isCulprit: false });
  expect(quarantine.verdictOn('content 0')).toBe('sendable');
  expect(quarantine.verdictOn('content 99')).toBe('refused');
  for (let i = 0; i < 1_000; i += 1) quarantine.useOtherBytes('b');
  // What `SdsResources.encode` takes.
  expect(quarantine.saltOf('b')).toBeLessThan(100 - maxTries.inOrder);
});
