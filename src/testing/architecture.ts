import { posix } from 'node:path';

/** What one top-level folder of `src/` (or `main` for `main.ts`) may import. */
export interface Layer {
  /** The next lower layers; what these may import, it may import too. */
  readonly imports: readonly string[];
  /** Packages it may import itself. */
  readonly libraries?: readonly string[];
}

/** The rules of the house, as data; see `design/house.md` §1 or `docs/architecture.md`. */
export interface Rules {
  readonly layers: Readonly<Record<string, Layer>>;
  /** Packages that any file of this name may import. */
  readonly librariesByFile: Readonly<Record<string, readonly string[]>>;
  /** For a layer: its files and folders in ranks from the top; each may import only from ranks below its own. */
  readonly ranks: Readonly<Record<string, readonly (readonly string[])[]>>;
  /** A layer whose folders do not know each other. */
  readonly separateFolders: readonly string[];
}

/** Files with what each imports: paths ending in `.ts`, all relative to `src/`, and names of packages. */
export type ImportGraph = ReadonlyMap<string, readonly string[]>;

/** Test files, and what only these may import. */
export function isTestFile(path: string): boolean {
  return (
    path.startsWith('testing/') || path.endsWith('.test.ts') || posix.basename(path) === 'conformance.ts'
  );
}

/** One sentence for each import that breaks a rule. Tests may import everything. */
export function forbiddenImports(rules: Rules, graph: ImportGraph): string[] {
  return [...graph]
    .filter(([path]) => !isTestFile(path))
    .flatMap(([path, imports]) => imports.map((name) => judge(rules, path, name)))
    .filter((sentence) => sentence !== undefined);
}

function judge(rules: Rules, path: string, name: string): string | undefined {
  const layer = layerOf(path);
  if (rules.layers[layer] === undefined) return `${path} is in no layer of the table`;
  if (name.startsWith('../')) return `${path} may not import ${name.slice(3)}: it is outside src/`;
  if (!name.endsWith('.ts')) return judgeLibrary(rules, path, name);
  if (isTestFile(name)) return `${path} may not import ${name}: it is for tests only`;
  const target = layerOf(name);
  if (target === layer) return judgeInside(rules, layer, path, name);
  return layersBelow(rules, layer).has(target) ? undefined : `${path} may not import ${target}/…`;
}

function judgeLibrary(rules: Rules, path: string, name: string): string | undefined {
  if (name.startsWith('node:')) return undefined;
  const library = name.split('/', name.startsWith('@') ? 2 : 1).join('/');
  const ofLayer = rules.layers[layerOf(path)]?.libraries ?? [];
  const ofFile = rules.librariesByFile[posix.basename(path)] ?? [];
  if (ofLayer.includes(library) || ofFile.includes(library)) return undefined;
  return `${path} may not import the library ${library}`;
}

function judgeInside(rules: Rules, layer: string, path: string, name: string): string | undefined {
  const [from, to] = [partOf(path), partOf(name)];
  if (from === to) return undefined;
  if (rules.separateFolders.includes(layer) && path.split('/').length > 2) {
    return `${path} may not import ${layer}/${to}: the folders of ${layer} do not know each other`;
  }
  const ranks = rules.ranks[layer];
  if (ranks === undefined) return undefined;
  const rankOf = (part: string) => ranks.findIndex((rank) => rank.includes(part));
  if (rankOf(from) < 0) return `${layer}/${from} has no rank in the table`;
  return rankOf(from) < rankOf(to) || rankOf(to) < 0 ? undefined : `${path} may not import ${layer}/${to}`;
}

function layerOf(path: string): string {
  return path.includes('/') ? path.slice(0, path.indexOf('/')) : path.replace(/\.ts$/, '');
}

/** Inside its layer, a file belongs to its folder or stands for itself. */
function partOf(path: string): string {
  return (path.split('/')[1] ?? '').replace(/\.ts$/, '');
}

function layersBelow(rules: Rules, layer: string): ReadonlySet<string> {
  const below = new Set<string>();
  const visit = (name: string): void => {
    for (const next of rules.layers[name]?.imports ?? []) {
      if (below.has(next)) continue;
      below.add(next);
      visit(next);
    }
  };
  visit(layer);
  return below;
}

/** Each import cycle once, as `a.ts → b.ts → a.ts`. Type imports count. */
export function importCycles(graph: ImportGraph): string[] {
  const cycles: string[] = [];
  const done = new Set<string>();
  const trail: string[] = [];
  const visit = (path: string): void => {
    const start = trail.indexOf(path);
    if (start >= 0) cycles.push([...trail.slice(start), path].join(' → '));
    if (start >= 0 || done.has(path)) return;
    trail.push(path);
    for (const next of graph.get(path) ?? []) if (graph.has(next)) visit(next);
    trail.pop();
    done.add(path);
  };
  for (const path of graph.keys()) visit(path);
  return cycles;
}
