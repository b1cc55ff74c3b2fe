import { execFileSync } from 'node:child_process';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { tempDir } from '../../testing/temp-dir.ts';
import { AccountFile, parseAccounts } from './passwd-file.ts';

describe('account names', () => {
  it.each(['passwd', 'group'] as const)(
    'of this machine are those that id(1) and getent(1) know: %s',
    (kind) => {
      const names = parseAccounts(kind, readFileSync(`/etc/${kind}`, 'utf8'));
      expect(names.get(0)).toBe('root');
      for (const [id, name] of [...names].slice(0, 10)) {
        expect(execFileSync('getent', [kind, `${id}`], { encoding: 'utf8' }).split(':')[0]).toBe(name);
      }
    },
  );

  it.each<{ name: string; line: string; id: number; is: string | undefined }>([
    { name: 'an ordinary line', line: 'web:x:1000:1000:Web,,,:/home/web:/bin/sh', id: 1000, is: 'web' },
    { name: 'empty fields', line: 'web::1000::::', id: 1000, is: 'web' },
    { name: 'a name with a domain', line: 'a@b.org:x:7:7:::', id: 7, is: 'a@b.org' },
    { name: 'the largest id', line: 'web:x:4294967294:1:::', id: 4294967294, is: 'web' },
    { name: 'the id that means none', line: 'web:x:4294967295:1:::', id: 4294967295, is: undefined },
    { name: 'an id beyond 32 bits', line: 'web:x:4294967296:1:::', id: 0, is: undefined },
    { name: 'a negative id', line: 'web:x:-1:1:::', id: -1, is: undefined },
    { name: 'an id with a leading zero', line: 'web:x:07:1:::', id: 7, is: undefined },
    { name: 'no id', line: 'web:x::1:::', id: 0, is: undefined },
    { name: 'too few fields', line: 'web:x:1000:1000:Web:/home', id: 1000, is: undefined },
    { name: 'too many fields', line: 'web:x:1000:1000:::::', id: 1000, is: undefined },
    { name: 'no name', line: ':x:1000:1000:::', id: 1000, is: undefined },
    { name: 'a space in the name', line: 'we b:x:1000:1000:::', id: 1000, is: undefined },
    { name: 'a NIS line', line: '+web:x:1000:1000:::', id: 1000, is: undefined },
    { name: 'a comment', line: '#web:x:1000:1000:::', id: 1000, is: undefined },
    { name: 'a control character in the name', line: 'we\x07b:x:1000:1000:::', id: 1000, is: undefined },
  ])('$name', ({ line, id, is }) => {
    expect(parseAccounts('passwd', `root:x:1:1:::\n${line}\n`).get(id)).toBe(is);
  });

  it('of two with one id, the first counts', () => {
    expect(parseAccounts('group', 'a:x:5:\nb:x:5:\n')).toEqual(new Map([[5, 'a']]));
  });

  it('of any text are unique ids with names that a selector can carry', () => {
    const line = fc.array(fc.oneof(fc.string(), fc.nat().map(String)), { minLength: 3, maxLength: 5 });
    const text = fc.array(line.map((fields) => fields.join(':'))).map((lines) => lines.join('\n'));
    fc.assert(
      fc.property(text, (input) => {
        for (const [id, name] of parseAccounts('group', input)) {
          expect(id).toBeGreaterThanOrEqual(0);
          expect(id).toBeLessThan(2 ** 32 - 1);
          expect(name).toMatch(/^[^\s:]+$/);
        }
      }),
    );
  });

  it('are read again when the file was replaced, and only then', async () => {
    const path = join(tempDir(), 'group');
    const replace = (text: string) => {
      writeFileSync(`${path}.new`, text);
      renameSync(`${path}.new`, path);
    };
    const file = new AccountFile('group', path);
    expect((await file.names()).size).toBe(0);
    replace('a:x:5:\n');
    const first = await file.names();
    expect(first.get(5)).toBe('a');
    expect(await file.names()).toBe(first);
    replace('b:x:5:\n');
    expect((await file.names()).get(5)).toBe('b');
  });

  it('that cannot be read are an error', async () => {
    const file = new AccountFile('group', tempDir());
    await expect(file.names()).rejects.toMatchObject({ code: 'failed-precondition' });
  });
});
