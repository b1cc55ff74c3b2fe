/**
 * The module names a TypeScript source imports or re-exports: types, dynamic imports and `require` included.
 * It relies on the formatter, which puts every statement on a line of its own and quotes with `'`.
 */
export function importsOf(source: string): readonly string[] {
  const names = [...source.matchAll(STATEMENT), ...source.matchAll(CALL)].map(([, name = '']) => name);
  return [...new Set(names)];
}

/** `import … from 'name'`, `export … from 'name'` and `import 'name'` at the start of a line. */
const STATEMENT =
  /^(?:import|(?:import|export)\b(?:\/\/.*|\/\*[\s\S]*?\*\/|[^;'"`()=])*?\bfrom)\s*'([^'\n]+)'/gm;

/** `import('name')`, as an expression or in a type, and `require('name')`. */
const CALL = /\b(?:import|require)\(\s*'([^'\n]+)'/g;
