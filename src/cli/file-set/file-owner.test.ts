import { describe, expect, it } from 'vitest';
import { parseOwner, resolveOwner } from './file-owner.ts';

const accounts = {
  users: { names: async () => new Map([[101, 'nginx']]) },
  groups: { names: async () => new Map([[102, 'certs']]) },
};

describe('an owner', () => {
  it.each([
    ['nginx', { user: 'nginx', group: undefined }],
    ['nginx:certs', { user: 'nginx', group: 'certs' }],
    [':certs', { user: undefined, group: 'certs' }],
    ['0:0', { user: '0', group: '0' }],
  ])('is parsed: %s', (text, expected) => expect(parseOwner(text)).toEqual(expected));

  it.each(['', ':', 'a:', 'a:b:c', 'a b', ' '])('is not %j', (text) => {
    expect(() => parseOwner(text)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });

  it.each([
    ['nginx:certs', { uid: 101, gid: 102 }],
    ['nginx', { uid: 101, gid: -1 }],
    [':55', { uid: -1, gid: 55 }],
  ])('is looked up by root: %s', async (text, expected) => {
    if (process.geteuid?.() !== 0) return;
    expect(await resolveOwner(parseOwner(text), accounts)).toEqual(expected);
  });

  it.each(['nobody-here', ':nobody-here', '4294967295'])('that does not exist is said: %s', async (text) => {
    await expect(resolveOwner(parseOwner(text), accounts)).rejects.toMatchObject({ code: 'not-found' });
  });

  it('may be a group of this user without being root, and nobody else', async () => {
    const before = process.geteuid?.();
    if (before !== 0) return;
    const { seteuid } = process;
    seteuid?.(65_534);
    try {
      const mine = process.getgroups?.()[0] ?? 0;
      expect(await resolveOwner({ user: undefined, group: String(mine) }, accounts)).toEqual({
        uid: -1,
        gid: mine,
      });
      for (const owner of [
        { user: '101', group: undefined },
        { user: undefined, group: '102' },
      ]) {
        await expect(resolveOwner(owner, accounts)).rejects.toThrow(/--owner needs root/);
      }
    } finally {
      seteuid?.(before);
    }
  });
});
