import { expect, test } from 'vitest';
import { type LeafToOrder, leafWaitMs } from './delivery-order.ts';

const leaf = { notBeforeMs: 0, notAfterMs: 4_000 };
const first: LeafToOrder = {
  has: undefined,
  isTrustOpen: true,
  isConnectionOpen: true,
  waitedMs: 0,
  nowMs: 0,
};
const cases: readonly { name: string; leaf: LeafToOrder; waitMs: number }[] = [
  { name: 'a first leaf waits for its connection', leaf: first, waitMs: 50 },
  { name: 'a first leaf waits on', leaf: { ...first, waitedMs: 49 }, waitMs: 1 },
  { name: 'a first leaf waits no longer', leaf: { ...first, waitedMs: 51 }, waitMs: 0 },
  { name: 'a first leaf does not wait for others', leaf: { ...first, isConnectionOpen: false }, waitMs: 0 },
  { name: 'a replacement waits for trust', leaf: { ...first, has: leaf, nowMs: 1_000 }, waitMs: 2_000 },
  {
    name: 'a replacement does not wait for what has not asked yet',
    leaf: { ...first, has: leaf, isTrustOpen: false },
    waitMs: 0,
  },
  {
    name: 'a replacement goes when a quarter is left',
    leaf: { ...first, has: leaf, nowMs: 3_000 },
    waitMs: 0,
  },
  { name: 'a replacement of an expired leaf goes', leaf: { ...first, has: leaf, nowMs: 9_000 }, waitMs: 0 },
];
test.each(cases)('$name', ({ leaf, waitMs }) => {
  expect(leafWaitMs(leaf)).toBe(waitMs);
});
