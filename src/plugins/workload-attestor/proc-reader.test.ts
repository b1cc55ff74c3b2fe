import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { startNode } from '../../testing/child-process.ts';
import { parseProcessStatus, readProcessStatus } from './proc-reader.ts';

const status = (changes: { name?: string; uid?: string; gid?: string; groups?: string } = {}) =>
  [
    `Name:\t${changes.name ?? 'web'}`,
    'State:\tS (sleeping)',
    `Uid:\t${changes.uid ?? '1000\t1001\t1002\t1003'}`,
    `Gid:\t${changes.gid ?? '2000\t2001\t2002\t2003'}`,
    'FDSize:\t64',
    `Groups:\t${changes.groups ?? '4 24 100 '}`,
    'NStgid:\t7',
    '',
  ].join('\n');

describe('/proc/PID/status', () => {
  it('tells the effective ids and the groups', () => {
    const expected = { effectiveUid: 1001, effectiveGid: 2001, groups: [4, 24, 100] };
    expect(parseProcessStatus(status())).toEqual(expected);
    expect(parseProcessStatus(status({ groups: ' ' })).groups).toEqual([]);
  });

  it.each([
    { name: 'no uid line', text: status().replace('Uid:', 'Pid:') },
    { name: 'two uid lines', text: `${status()}Uid:\t0\t0\t0\t0\n` },
    { name: 'three uids', text: status({ uid: '1\t2\t3' }) },
    { name: 'five gids', text: status({ gid: '1\t2\t3\t4\t5' }) },
    { name: 'a word', text: status({ uid: '1\troot\t3\t4' }) },
    { name: 'a negative id', text: status({ uid: '1\t-1\t3\t4' }) },
    { name: 'no groups line', text: status().replace('Groups:', 'Group:') },
    { name: 'nothing', text: '' },
  ])('is refused with $name', ({ text }) => {
    expect(() => parseProcessStatus(text)).toThrow(/status of the process/);
  });

  it('gives the ids of the kernel, whatever name the process gave itself', () => {
    const name = fc.oneof(
      fc.constantFrom(
        '\rUid:\t0\t0\t0\t0',
        '\u2028Uid:\t0\t0\t0\t0',
        'Uid:\t0\t0\t0\t0',
        '\\nUid:\t0\t0\t0\t0',
      ),
      fc.string().filter((text) => !text.includes('\n')),
    );
    fc.assert(
      fc.property(name, (text) => {
        expect(parseProcessStatus(status({ name: text })).effectiveUid).toBe(1001);
      }),
    );
  });

  it('cannot be forged by a real process that names itself like a line of it', async () => {
    const child = startNode(String.raw`
      process.title = '\rUid:\t7\t7\t7\t7';
      const { readFileSync } = await import('node:fs');
      console.log(JSON.stringify(readFileSync('/proc/self/status', 'latin1').includes('\rUid:\t7')));
      setInterval(() => 0, 1000);
    `);
    expect(await child.nextLine()).toBe('true');
    expect((await readProcessStatus(child.pid)).effectiveUid).toBe(process.geteuid?.());
  });
});
