import { readFile } from 'node:fs/promises';
import { parseDocument, stringify } from 'yaml';
import { z } from 'zod';
import { configProblems } from './config-problems.ts';
import { AppError, errorText } from './error.ts';

const unitMs = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
const durationForm = /^(\d{1,15})(ms|s|m|h|d)$/;
const longestDurationMs = 36_500 * unitMs.d;
const durationRule = 'expected a duration such as "90s", "15m", "24h" or "7d"';

/** Milliseconds of a text such as `90s`, `15m`, `24h`, `7d`, `500ms` (at most 100 years); undefined when it is none. */
export function findDurationMs(text: string): number | undefined {
  const [, digits, unit] = durationForm.exec(text) ?? [];
  if (digits === undefined || unit === undefined) return undefined;
  const ms = Number(digits) * unitMs[unit as keyof typeof unitMs];
  return ms <= longestDurationMs ? ms : undefined;
}

/** A duration in a configuration file: text in, milliseconds out. */
export const duration: z.ZodType<number> = z.string({ error: durationRule }).transform((text, context) => {
  const ms = findDurationMs(text);
  if (ms !== undefined) return ms;
  context.addIssue({ code: 'custom', message: `${durationRule}, got ${JSON.stringify(text)}` });
  return z.NEVER;
});

/**
 * Reads a YAML file and parses it with `schema`. Duplicate keys, unknown keys, alias bombs and several documents are
 * errors. Throws `failed-precondition` when the file cannot be read, else `invalid-argument`.
 */
export async function readConfigFile<T>(path: string, schema: z.ZodType<T>): Promise<T> {
  return parseConfig(parseYaml(await readText(path), path), schema, path);
}

/**
 * Parses an already read value. `where` starts each error: a file, or a file and a path inside it such as
 * `agent.yaml: nodeAttestor.x509pop`. Throws `invalid-argument`, one line per problem.
 */
export function parseConfig<T>(value: unknown, schema: z.ZodType<T>, where: string): T {
  const result = schema.safeParse(value, { reportInput: true });
  if (result.success) return result.data;
  const prefix = (path: string) =>
    `${where}${path === '' ? '' : `${where.includes(': ') ? '.' : ': '}${path}`}`;
  const lines = configProblems(result.error, schema).map(
    (problem) => `${prefix(problem.path)}: ${problem.text}`,
  );
  throw new AppError('invalid-argument', lines.join('\n'));
}

/** Reads one YAML (or JSON) document; `where` starts each error. Throws `invalid-argument`. */
export function parseYaml(text: string, where: string): unknown {
  const document = parseDocument(text, { version: '1.2', uniqueKeys: true, stringKeys: true });
  // A warning is an unknown tag: the value would silently be read as something else.
  const problem = document.errors[0] ?? document.warnings[0];
  if (problem?.code === 'MULTIPLE_DOCS') throw notYaml(where, 'must be one YAML document');
  if (problem !== undefined) throw notYaml(where, problem.message);
  try {
    return document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    throw notYaml(where, errorText(error));
  }
}

/** A value as a YAML document; text is quoted where it would read as something else. */
export function toYaml(value: unknown): string {
  return stringify(value, { version: '1.2', lineWidth: 0, aliasDuplicateObjects: false });
}

async function readText(path: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    const isMissing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    const message = isMissing
      ? `config file "${path}" does not exist; create it or name another one with --config`
      : `config file "${path}" cannot be read`;
    throw new AppError('failed-precondition', message, isMissing ? {} : { cause });
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new AppError('invalid-argument', `${path}: must be UTF-8 text`);
  }
}

function notYaml(where: string, message: string): AppError {
  // Only the first line: the rest is a picture of the line, which may hold a secret.
  return new AppError('invalid-argument', `${where}: ${(message.split('\n')[0] ?? '').replace(/:$/, '')}`);
}
