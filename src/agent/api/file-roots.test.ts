import { rename, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, onTestFinished, test } from 'vitest';
import { TestIdentity } from '../../testing/certificates.ts';
import { eventually } from '../../testing/eventually.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { memoryLogger } from '../../testing/grpc-listener.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { newSdsResources, trustIn, viewOf } from '../../testing/sds-resources.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { FileRoots } from './file-roots.ts';
import { parseSdsNames } from './sds-names.ts';

let roots: readonly string[];
beforeAll(async () => {
  const identities = [0, 1, 2].map((i) => TestIdentity.root(`${i}.example`));
  roots = (await Promise.all(identities)).map(({ certificate }) => certificate.toPem());
});

const name = 'file-root:system';

/** Secrets of an agent that may serve one file, which is not there yet. */
function start() {
  const path = join(tempDir(), 'roots.pem');
  const clock = new FakeClock();
  const { log, lines } = memoryLogger();
  const fileRoots = new FileRoots({ clock, log });
  const stop = new AbortController();
  const running = fileRoots.run(stop.signal, () => undefined);
  onTestFinished(async () => {
    stop.abort();
    await running;
  });
  const names = parseSdsNames({
    names: { defaultSvid: 'default', ownBundle: 'ROOTCA', allBundles: 'ALL' },
    aliases: {},
    fileRoots: { [name]: path },
  });
  const resources = newSdsResources({ names, clock, fileRoots });
  const view = viewOf([testEntry()]);
  return {
    path,
    lines,
    fileRoots,
    resources,
    view,
    resolve: () => resources.resolve(name, view),
    /** What Envoy would trust, in either flavour: these are roots of no trust domain. */
    served: () => {
      const [plain, ...more] = (['spiffe', 'x509'] as const).map((flavour) => {
        const found = resources.resolve(name, view, flavour);
        if (found.kind !== 'trust') throw new Error(found.kind);
        return [...trustIn(resources.encode(name, found))];
      });
      expect(more).toEqual([plain]);
      return plain;
    },
    replace: async (text: string) => {
      await writeFile(`${path}.new`, text);
      await rename(`${path}.new`, path);
    },
    poll: () => clock.advance(5_000),
  };
}

const plain = (...pems: readonly (string | undefined)[]) => [['plain', expect.toSatisfy(sameBlocks(pems))]];
const sameBlocks = (pems: readonly (string | undefined)[]) => (text: string) =>
  text.split('-----END').length - 1 === pems.length && pems.every((pem) => text.includes(pem ?? '?'));

test('a file is read when it is first asked for, and held meanwhile', async () => {
  const { replace, resolve, served, fileRoots, resources, lines } = start();
  await replace(roots.join(''));
  expect(lines).toEqual([]);
  expect(resolve()).toEqual({ kind: 'held', reason: 'file not read yet', isAbsent: false });
  await eventually(() => expect(fileRoots.changes.value).toBe(1));
  expect(served()).toEqual(plain(...roots));
  expect(resources.changes).toBe(fileRoots.changes);
  // Not for those without an identity.
  expect(resources.resolve(name, viewOf([]))).toMatchObject({ reason: 'no registration entry' });
});

test('a file is followed, and is the same object until it is another', async () => {
  const { replace, resolve, served, poll, fileRoots } = start();
  await replace(`# Roots\n\n${roots[0]}${roots[0]}`);
  resolve();
  await eventually(() => expect(served()).toEqual(plain(roots[0])));
  const before = resolve();
  for (let i = 0; i < 3; i += 1) await poll();
  expect(resolve()).toBe(before);
  expect(fileRoots.changes.value).toBe(1);
  await replace(`${roots[0]}${roots[1]}`);
  await eventually(async () => {
    await poll();
    expect(served()).toEqual(plain(roots[0], roots[1]));
  });
  expect(fileRoots.changes.value).toBe(2);
});

test('what cannot be read again stays in use, and is logged once', async () => {
  const { path, replace, resolve, served, poll, lines } = start();
  await replace(roots.join(''));
  resolve();
  await eventually(() => expect(served()).toEqual(plain(...roots)));
  const errors = () => lines.filter(({ level }) => level === 'error');
  const damage = [() => rm(path), () => replace(''), () => replace('-----BEGIN')];
  for (const [index, act] of damage.entries()) {
    await act();
    await eventually(async () => {
      await poll();
      expect(errors()).toHaveLength(index + 1);
    });
    for (let i = 0; i < 3; i += 1) await poll();
    expect(errors()).toHaveLength(index + 1);
    expect(served()).toEqual(plain(...roots));
  }
  await replace(roots[2] ?? '');
  await eventually(async () => {
    await poll();
    expect(served()).toEqual(plain(roots[2]));
  });
});

test.each([
  { what: 'is missing', content: undefined, problem: 'ENOENT' },
  { what: 'is empty', content: () => '', problem: 'at least one PEM block' },
  { what: 'is no PEM', content: () => 'roots', problem: 'at least one PEM block' },
  {
    what: 'has a key in it',
    content: () => `${roots[0]}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n`,
    problem: 'a private key among certificates',
  },
])('nothing is sent of a file that $what, until it is mended', async ({ content, problem }) => {
  const { replace, resolve, served, poll } = start();
  if (content !== undefined) await replace(content());
  resolve();
  await eventually(() => {
    expect(resolve()).toEqual({ kind: 'unfit', problem: expect.stringContaining(problem) });
    expect(resolve()).toMatchObject({ problem: expect.stringContaining('sds.fileRoots: cannot use "/') });
  });
  await replace(roots.join(''));
  await eventually(async () => {
    await poll();
    expect(served()).toEqual(plain(...roots));
  });
});

test('a file of any size costs no more than its size', async () => {
  const { path, replace, resolve } = start();
  await replace('');
  await truncate(path, 2 ** 40);
  resolve();
  await eventually(() =>
    expect(resolve()).toMatchObject({ kind: 'unfit', problem: expect.stringContaining('at most 8388608') }),
  );
});

test('of roots that are gone from the file nothing is left, and of a view without identity nothing at all', async () => {
  const { replace, resolve, served, poll, resources, view } = start();
  await replace(`${roots[0]}${roots[1]}`);
  resolve();
  await eventually(() => expect(served()).toEqual(plain(roots[0], roots[1])));
  const old = resolve();
  if (old.kind !== 'trust') throw new Error(old.kind);
  await replace(`${roots[1]}${roots[2]}`);
  await eventually(async () => {
    await poll();
    expect(served()).toEqual(plain(roots[1], roots[2]));
  });
  const left = (of = view) => {
    const cut = resources.cut(name, old, of);
    return cut && [...trustIn(resources.encode(name, cut))];
  };
  expect(left()).toEqual(plain(roots[1]));
  expect(left(viewOf([]))).toEqual([]);
});
