import { toYaml } from '../runtime/config-file.ts';
import { unprintable } from '../runtime/printable.ts';

/** How a command shows its result. */
export type OutputFormat = 'table' | 'json' | 'yaml';

/** Plain data with stable keys, as JSON shows it. */
export type Row = Readonly<Record<string, string | number | boolean | readonly string[]>>;

/** Prints one record: JSON and YAML as one document, the table as one line per field. */
export function printRecord(row: Row, format: OutputFormat): void {
  if (format !== 'table') {
    printDocument(row, format);
    return;
  }
  const fields = Object.entries(row).filter(
    ([, value]) => value !== '' && !(Array.isArray(value) && value.length === 0),
  );
  const width = Math.max(...fields.map(([key]) => label(key).length));
  print(fields.map(([key, value]) => `${label(key).padEnd(width)}  ${text(value)}`).join('\n'));
}

/** Prints records: JSON and YAML as one list, the table with one line per record and the columns that are named. */
export function printRows(rows: readonly Row[], columns: readonly string[], format: OutputFormat): void {
  if (format !== 'table') {
    printDocument(rows, format);
    return;
  }
  const cells = rows.map((row) => columns.map((column) => text(row[column] ?? '')));
  const head = columns.map((column) => label(column).toUpperCase());
  const table = [head, ...cells];
  // Not Math.max(...): arguments are few, entries may be many.
  const widths = columns.map((_, i) => table.reduce((most, line) => Math.max(most, line[i]?.length ?? 0), 0));
  const lines = table.map((line) =>
    line
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  print(lines.join('\n'));
}

/** Prints one document; as data it is what it was, on a terminal it moves no cursor. */
export function printDocument(value: unknown, format: 'json' | 'yaml'): void {
  const yaml = format === 'yaml' ? toYaml(value) : undefined;
  // YAML leaves such characters as they are; but JSON is YAML too.
  const isPlain = yaml !== undefined && !unprintable.test(yaml.replaceAll('\n', ''));
  print(isPlain ? yaml : printableJson(value));
}

function printableJson(value: unknown): string {
  const escaped = (character: string) =>
    character === '\n' ? character : character.split('').map(unicodeEscape).join('');
  return JSON.stringify(value, undefined, 2).replaceAll(eachUnprintable, escaped);
}

function unicodeEscape(codeUnit: string): string {
  return `\\u${codeUnit.charCodeAt(0).toString(16).padStart(4, '0')}`;
}

/** Writes to stdout, with a line end. */
export function print(line: string): void {
  process.stdout.write(line.endsWith('\n') ? line : `${line}\n`);
}

/** Writes a remark for people to stderr, so that stdout stays one document. */
export function remark(line: string): void {
  process.stderr.write(`${line}\n`);
}

const eachUnprintable = new RegExp(unprintable, 'gu');
const unprintables = new RegExp(`${unprintable.source}+`, 'gu');

/** `x509SvidTtl` → `x509 svid ttl`. */
function label(key: string): string {
  return key.replaceAll(/([a-z0-9])([A-Z])/g, '$1 $2').toLowerCase();
}

/** A value in a table or a line: other people's texts, such as hints, must not move the cursor or fake a line. */
export function text(value: Row[string]): string {
  return (Array.isArray(value) ? value.join(', ') : String(value)).replaceAll(unprintables, ' ');
}
