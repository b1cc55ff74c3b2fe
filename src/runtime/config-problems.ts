import type { z } from 'zod';

/** One mistake in a configuration: where (`sds.names[0]`, empty for the whole) and what. */
export interface ConfigProblem {
  readonly path: string;
  readonly text: string;
}

type Issue = z.core.$ZodIssue;
type Path = readonly PropertyKey[];

/** What zod found, in words for the person who wrote the file. Values are never repeated, except of closed sets. */
export function configProblems(error: z.ZodError, schema: z.ZodType): readonly ConfigProblem[] {
  return error.issues.flatMap((issue) => problemsOf(issue, [], schema));
}

function problemsOf(issue: Issue, base: Path, schema: z.ZodType): readonly ConfigProblem[] {
  const path = [...base, ...issue.path];
  if (issue.code === 'unrecognized_keys') {
    const known = knownKeys(schema, path);
    return issue.keys.map((key) => ({ path: pathText([...path, key]), text: unknownKeyText(key, known) }));
  }
  if (issue.code === 'invalid_union') {
    const branch = likeliestBranch(issue.errors);
    if (branch !== undefined) return branch.flatMap((inner) => problemsOf(inner, path, schema));
  }
  return [{ path: pathText(path), text: issueText(issue) }];
}

function issueText(issue: Issue): string {
  switch (issue.code) {
    case 'invalid_type': {
      const got = typeName(issue.input);
      const expected = expectedNames[issue.expected] ?? issue.expected;
      // A message of the schema's own says what is expected better than the type does.
      const rule = issue.message.startsWith('Invalid input') ? `expected ${expected}` : issue.message;
      return got === undefined ? `missing; ${rule}` : `${rule}, got ${got}`;
    }
    case 'invalid_value':
      return `expected ${issue.values.map((value) => JSON.stringify(value)).join(' or ')}, got ${shownScalar(issue.input)}`;
    case 'invalid_key':
      return `invalid key: ${issue.issues.map(issueText).join(', ')}`;
    default:
      return issue.message.charAt(0).toLowerCase() + issue.message.slice(1);
  }
}

const expectedNames: Readonly<Record<string, string>> = {
  array: 'a list',
  boolean: 'true or false',
  int: 'a whole number',
  number: 'a number',
  object: 'a map of settings',
  record: 'a map',
  string: 'a text',
};

/** Undefined for nothing at all. Only the type: the value may be a secret in the wrong place. */
function typeName(value: unknown): string | undefined {
  if (value === undefined) return undefined;
  if (value === null) return 'an empty value';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'number') return Number.isInteger(value) ? 'a whole number' : 'a number';
  return (
    { string: 'a text', boolean: 'true or false', object: 'a map' }[typeof value as string] ?? typeof value
  );
}

function shownScalar(value: unknown): string {
  const isScalar = typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean';
  return isScalar ? JSON.stringify(value) : (typeName(value) ?? 'nothing');
}

/** Of a union's branches the one that got furthest: its mistakes lie deepest, and are the fewest. */
function likeliestBranch(branches: readonly (readonly Issue[])[]): readonly Issue[] | undefined {
  const depth = (branch: readonly Issue[]) => Math.max(...branch.map((issue) => issue.path.length));
  const objects = branches.filter((branch) => depth(branch) > 0 || branch[0]?.code === 'unrecognized_keys');
  return objects.sort((a, b) => depth(b) - depth(a) || a.length - b.length)[0];
}

function unknownKeyText(key: string, known: readonly string[]): string {
  if (known.length === 0) return 'unknown key';
  const byDistance = known.map((name) => ({ name, distance: editDistance(key, name) }));
  byDistance.sort((a, b) => a.distance - b.distance || (a.name < b.name ? -1 : 1));
  const nearest = byDistance[0];
  // Two letters swapped are a distance of two; in a very short key that would be another word.
  const isNear = (distance: number) => distance <= Math.max(2, key.length / 3) && distance < key.length / 1.5;
  const hint = nearest !== undefined && isNear(nearest.distance) ? ` did you mean "${nearest.name}"?` : '';
  return `unknown key;${hint} expected one of ${byDistance.map(({ name }) => name).join(', ')}`;
}

/** The keys that the schema knows at this path; none when it cannot be told. */
function knownKeys(schema: z.ZodType, path: Path): readonly string[] {
  let here: readonly z.core.$ZodType[] = alternatives(schema);
  for (const step of path) here = here.flatMap((each) => child(each, step)).flatMap(alternatives);
  return [...new Set(here.flatMap((each) => Object.keys(shapeOf(each) ?? {})))];
}

/** Takes off what wraps a schema (optional, default, transform, …) and lists the branches of unions. */
function alternatives(schema: z.core.$ZodType): readonly z.core.$ZodType[] {
  const def = defOf(schema);
  if (def.innerType !== undefined) return alternatives(def.innerType);
  if (def.type === 'pipe' && def.in !== undefined) return alternatives(def.in);
  if (def.type === 'lazy' && def.getter !== undefined) return alternatives(def.getter());
  return def.options === undefined ? [schema] : def.options.flatMap(alternatives);
}

function child(schema: z.core.$ZodType, step: PropertyKey): readonly z.core.$ZodType[] {
  const def = defOf(schema);
  const found = shapeOf(schema)?.[String(step)] ?? def.element ?? def.valueType;
  return found === undefined ? [] : [found];
}

function shapeOf(schema: z.core.$ZodType): Readonly<Record<string, z.core.$ZodType>> | undefined {
  return defOf(schema).shape;
}

/** The parts of zod's definitions that are walked here; all absent in kinds that do not have them. */
interface Definition {
  readonly type: string;
  readonly innerType?: z.core.$ZodType;
  readonly in?: z.core.$ZodType;
  readonly getter?: () => z.core.$ZodType;
  readonly options?: readonly z.core.$ZodType[];
  readonly shape?: Readonly<Record<string, z.core.$ZodType>>;
  readonly element?: z.core.$ZodType;
  readonly valueType?: z.core.$ZodType;
}

function defOf(schema: z.core.$ZodType): Definition {
  return schema._zod.def as Definition;
}

function pathText(path: Path): string {
  return path.reduce<string>((text, step) => {
    if (typeof step === 'number') return `${text}[${step}]`;
    return text === '' ? String(step) : `${text}.${String(step)}`;
  }, '');
}

/** Levenshtein distance, without regard to case. */
function editDistance(a: string, b: string): number {
  const [from, to] = [a.toLowerCase(), b.toLowerCase()];
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 1; i <= from.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= to.length; j += 1) {
      const replace = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min(replace, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[to.length] ?? 0;
}
