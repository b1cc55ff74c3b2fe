import { expect, it } from 'vitest';
import { tempDir } from '../../testing/temp-dir.ts';
import { openTestStore } from '../../testing/test-store.ts';

it('a server keeps its ID, and another one has another', async () => {
  const dataDir = tempDir();
  const store = await openTestStore({ dataDir });
  const [first, again] = await Promise.all([store.serverId(), store.serverId()]);
  expect(first).toMatch(/^[0-9a-f]{16}$/);
  expect(again).toBe(first);
  expect(await (await openTestStore({ dataDir })).serverId()).toBe(first);
  expect(await (await openTestStore()).serverId()).not.toBe(first);
});
