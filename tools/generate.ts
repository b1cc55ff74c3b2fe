import { execFileSync } from 'node:child_process';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { apiReference } from './api-reference.ts';
import { configReference } from './config-reference.ts';
import { descriptorsModule } from './descriptors.ts';

/**
 * Makes every generated file of the repository: `node tools/generate.ts` writes them,
 * `node tools/generate.ts --check` makes them elsewhere and fails when one in the repository differs.
 */
interface Generator {
  /** A file, or a folder that holds nothing but what is made here. */
  readonly path: string;
  /** Makes `root/path`. */
  make(root: string): void;
}

const generators: readonly Generator[] = [
  {
    path: 'src/gen',
    make: (root) => {
      execFileSync('buf', ['generate', '--output', root], { stdio: 'inherit' });
      writeFileSync(`${root}/src/gen/descriptors.ts`, descriptorsModule());
    },
  },
  {
    path: 'docs/configuration.md',
    make: (root) => writeFileSync(`${root}/docs/configuration.md`, configReference()),
  },
  {
    path: 'docs/spire-api.md',
    make: (root) => writeFileSync(`${root}/docs/spire-api.md`, apiReference()),
  },
];

/** Paths of files below `root/path`, or that file alone, relative to `root`, with their contents. */
function read(root: string, path: string): ReadonlyMap<string, string> {
  const stat = statSync(join(root, path), { throwIfNoEntry: false });
  if (stat === undefined) return new Map();
  if (stat.isFile()) return new Map([[path, readFileSync(join(root, path), 'utf8')]]);
  const below = readdirSync(join(root, path)).map((name) => read(root, join(path, name)));
  return new Map(below.flatMap((files) => [...files]));
}

function differences(made: string, path: string): string[] {
  const have = read('.', path);
  const want = read(made, path);
  const paths = [...new Set([...have.keys(), ...want.keys()])].sort();
  return paths.filter((name) => have.get(name) !== want.get(name));
}

const check = process.argv.includes('--check');
mkdirSync('.cache', { recursive: true });
const root = mkdtempSync('.cache/generated-');
try {
  for (const { path, make } of generators) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    make(root);
    for (const name of differences(root, path)) {
      process.stdout.write(
        check ? `${name} is not what is generated now; run: make generate\n` : `${name}\n`,
      );
      if (check) process.exitCode = 1;
    }
    if (check) continue;
    rmSync(path, { recursive: true, force: true });
    cpSync(join(root, path), path, { recursive: true });
  }
} finally {
  rmSync(root, { recursive: true, force: true });
}
