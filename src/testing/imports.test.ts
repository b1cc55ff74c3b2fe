import { describe, expect, it } from 'vitest';
import { importsOf } from './imports.ts';

describe('importsOf', () => {
  const cases: readonly { name: string; source: string; imports: readonly string[] }[] = [
    { name: 'finds an import', source: "import { a } from './a.ts';", imports: ['./a.ts'] },
    {
      name: 'finds an import over several lines',
      source: "import {\n  a,\n} from './a.ts';",
      imports: ['./a.ts'],
    },
    { name: 'finds a type import', source: "import type { A } from './a.ts';", imports: ['./a.ts'] },
    { name: 'finds a bare import', source: "import 'reflect-metadata';", imports: ['reflect-metadata'] },
    { name: 'finds re-exports', source: "export * from 'a';\nexport { b } from 'b';", imports: ['a', 'b'] },
    { name: 'finds a dynamic import', source: "const a = await import('./a.ts');", imports: ['./a.ts'] },
    { name: 'finds a type in an expression', source: "let a: import('./a.ts').A;", imports: ['./a.ts'] },
    { name: 'finds a require', source: "const a = require('./a.cjs');", imports: ['./a.cjs'] },
    {
      name: 'finds an import with attributes',
      source: "import a from 'a' with { type: 'b' };",
      imports: ['a'],
    },
    {
      name: 'sees past a comment',
      source: "import {\n  a, // it's (a)\n} from './a.ts';",
      imports: ['./a.ts'],
    },
    { name: 'finds each name once', source: "import { a } from 'a';\nimport('a');", imports: ['a'] },
    { name: 'ignores comments', source: "// import 'a';\n/**\n * import 'b';\n */", imports: [] },
    {
      name: 'ignores an exported string',
      source: "export const from = 'a';\nexport type B = 'b';",
      imports: [],
    },
    { name: 'ignores an exported interface', source: "export interface A {\n  from: 'b';\n}", imports: [] },
    { name: 'ignores an exported function', source: "export function from(a = 'b') {}", imports: [] },
    { name: 'ignores import.meta', source: "import.meta.url;\nf('x');", imports: [] },
  ];
  it.each(cases)('$name', ({ source, imports }) => {
    expect(importsOf(source)).toEqual(imports);
  });
});
