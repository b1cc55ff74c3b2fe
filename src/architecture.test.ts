import { globSync, readFileSync } from 'node:fs';
import { posix } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  forbiddenImports,
  type ImportGraph,
  importCycles,
  isTestFile,
  type Rules,
} from './testing/architecture.ts';
import { importsOf } from './testing/imports.ts';

const rules: Rules = {
  layers: {
    main: { imports: ['cli'] },
    cli: { imports: ['server', 'agent', 'plugins'], libraries: ['commander'] },
    server: { imports: ['plugin-api', 'clients'] },
    agent: { imports: ['plugin-api', 'clients'] },
    plugins: { imports: ['plugin-api', 'clients'], libraries: ['kysely', 'zod'] },
    'plugin-api': { imports: ['spiffe'], libraries: ['zod'] },
    clients: { imports: ['rpc'] },
    rpc: { imports: ['gen', 'spiffe'], libraries: ['@grpc/grpc-js'] },
    gen: { imports: [], libraries: ['@bufbuild/protobuf', '@grpc/grpc-js'] },
    spiffe: { imports: ['x509'] },
    x509: { imports: ['runtime'] },
    runtime: { imports: [], libraries: ['pino', 'prom-client', 'yaml', 'zod'] },
  },
  librariesByFile: {
    // Wherever a document is read: a configuration, a stored file, a list of entries.
    'config.ts': ['zod'],
    'identity-file.ts': ['zod'],
    'entry-document.ts': ['zod'],
    // The parts of the process that runs a PKCS#11 module.
    'pkcs11-module.ts': ['pkcs11js'],
    'pkcs11-objects.ts': ['pkcs11js'],
    'pkcs11-token.ts': ['pkcs11js'],
    // Skips the node of a request undecoded, which no generated decoder can.
    'request-fields.ts': ['@bufbuild/protobuf'],
  },
  ranks: {
    server: [
      ['server'],
      ['server-apis', 'listeners'],
      ['rooms', 'server-health'],
      ['api', 'server-identity'],
      ['attestation', 'registration', 'bundles'],
      ['authority'],
      ['config', 'metrics'],
      ['rotation-times'],
    ],
    agent: [
      ['agent'],
      ['health-checks'],
      ['api', 'sync'],
      ['federation-sync', 'svid-signing'],
      ['workload', 'svid-cache', 'proxy-book', 'server-connection'],
      ['svid-variants', 'shared-refusals'],
      ['agent-identity', 'entry-matcher', 'rotation-policy'],
      ['bootstrap'],
      ['issued-svid'],
      ['config', 'metrics', 'workload-view', 'identity-file', 'agent-standing', 'tainted-svids'],
    ],
  },
  separateFolders: ['plugins'],
};

/** Hand-written code has at most this many lines a file; tests may have more. */
const LONGEST_FILE = 400;

function pathsIn(folder: string): string[] {
  return globSync('**/*.ts', { cwd: folder }).map((path) => path.replaceAll('\\', '/'));
}

function readGraph(folder: string): ImportGraph {
  const resolve = (path: string, name: string) =>
    name.startsWith('.') ? posix.join(posix.dirname(path), name) : name;
  return new Map(
    pathsIn(folder).map((path) => {
      const names = importsOf(readFileSync(`${folder}/${path}`, 'utf8'));
      return [path, names.map((name) => resolve(path, name))];
    }),
  );
}

describe('the source tree', () => {
  const graph = readGraph('src');
  const handWritten = new Map([...graph].filter(([path]) => !path.startsWith('gen/')));

  it('imports only downward and each library only where it belongs', () => {
    expect(forbiddenImports(rules, graph)).toEqual([]);
  });

  it('has no import cycle', () => {
    expect(importCycles(handWritten)).toEqual([]);
  });

  it('has no file that is too long', () => {
    const outside = ['bench', 'demo', 'e2e', 'tools'].flatMap((folder) =>
      pathsIn(folder).map((path) => `${folder}/${path}`),
    );
    const paths = [...[...handWritten.keys()].map((path) => `src/${path}`), ...outside];
    const tooLong = paths
      .filter((path) => !path.endsWith('.test.ts'))
      .map((path) => ({ path, lines: readFileSync(path, 'utf8').split('\n').length - 1 }))
      .filter(({ lines }) => lines > LONGEST_FILE);
    expect(tooLong).toEqual([]);
  });

  it('lets only tests use what is for tests', () => {
    const users = ['demo', 'tools'].flatMap((folder) =>
      [...readGraph(folder)].filter(
        ([path, imports]) => !isTestFile(path) && imports.some((name) => /^\.\.\/src\/testing\//.test(name)),
      ),
    );
    expect(users).toEqual([]);
  });
});

describe('the rules', () => {
  const cases: readonly { name: string; path: string; imports: string; sentence?: string }[] = [
    { name: 'a lower layer', path: 'agent/sync.ts', imports: 'x509/csr.ts' },
    { name: 'a built-in module', path: 'x509/csr.ts', imports: 'node:crypto' },
    {
      name: 'a part of a lower rank',
      path: 'server/api/svid-api.ts',
      imports: 'server/authority/authority.ts',
    },
    {
      name: 'a file of the same folder',
      path: 'plugins/key-manager/disk.ts',
      imports: 'plugins/key-manager/a.ts',
    },
    { name: 'a library of its own', path: 'rpc/grpc-server.ts', imports: '@grpc/grpc-js/build/src/x.js' },
    { name: 'zod in a configuration', path: 'agent/config.ts', imports: 'zod' },
    { name: 'what it likes in a test', path: 'x509/csr.test.ts', imports: 'server/authority/authority.ts' },
    {
      name: 'a higher layer',
      path: 'x509/csr.ts',
      imports: 'server/authority/authority.ts',
      sentence: 'x509/csr.ts may not import server/…',
    },
    {
      name: 'another role',
      path: 'agent/sync.ts',
      imports: 'server/authority/authority.ts',
      sentence: 'agent/sync.ts may not import server/…',
    },
    {
      name: 'a foreign library',
      path: 'x509/csr.ts',
      imports: '@grpc/grpc-js',
      sentence: 'x509/csr.ts may not import the library @grpc/grpc-js',
    },
    {
      name: 'a file outside',
      path: 'x509/csr.ts',
      imports: '../tools/check.ts',
      sentence: 'x509/csr.ts may not import tools/check.ts: it is outside src/',
    },
    {
      name: 'another kind of plugin',
      path: 'plugins/key-manager/a.ts',
      imports: 'plugins/data-store/sql-store.ts',
      sentence:
        'plugins/key-manager/a.ts may not import plugins/data-store: the folders of plugins do not know each other',
    },
    {
      name: 'a part of a higher rank',
      path: 'server/authority/authority.ts',
      imports: 'server/api/svid-api.ts',
      sentence: 'server/authority/authority.ts may not import server/api',
    },
    {
      name: 'a part of its own rank',
      path: 'server/attestation/a.ts',
      imports: 'server/registration/entries.ts',
      sentence: 'server/attestation/a.ts may not import server/registration',
    },
    {
      name: 'a fake of the tests',
      path: 'x509/csr.ts',
      imports: 'testing/fake-clock.ts',
      sentence: 'x509/csr.ts may not import testing/fake-clock.ts: it is for tests only',
    },
    {
      name: 'a conformance suite',
      path: 'plugins/key-manager/disk.ts',
      imports: 'plugins/key-manager/conformance.ts',
      sentence:
        'plugins/key-manager/disk.ts may not import plugins/key-manager/conformance.ts: it is for tests only',
    },
  ];
  it.each(cases)('$path: $name', ({ path, imports, sentence }) => {
    const graph = new Map([[path, [imports]], ...(imports.endsWith('.ts') ? [[imports, []] as const] : [])]);
    expect(forbiddenImports(rules, graph)).toEqual(sentence === undefined ? [] : [sentence]);
  });

  it('find a cycle', () => {
    const graph = new Map([
      ['a.ts', ['b.ts', 'node:fs']],
      ['b.ts', ['c.ts']],
      ['c.ts', ['b.ts']],
    ]);
    expect(importCycles(graph)).toEqual(['b.ts → c.ts → b.ts']);
  });
});
