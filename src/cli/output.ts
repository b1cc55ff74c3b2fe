import { toYaml } from '../runtime/config-file.ts';

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

/** Prints one document. */
export function printDocument(value: unknown, format: 'json' | 'yaml'): void {
  print(format === 'json' ? JSON.stringify(value, undefined, 2) : toYaml(value));
}

/** Writes to stdout, with a line end. */
export function print(line: string): void {
  process.stdout.write(line.endsWith('\n') ? line : `${line}\n`);
}

/** Writes a remark for people to stderr, so that stdout stays one document. */
export function remark(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** `x509SvidTtl` → `x509 svid ttl`. */
function label(key: string): string {
  return key.replaceAll(/([a-z0-9])([A-Z])/g, '$1 $2').toLowerCase();
}

/** Other people's texts, such as hints, must not move the cursor or fake a line. */
function text(value: Row[string]): string {
  return (Array.isArray(value) ? value.join(', ') : String(value)).replaceAll(/\p{Cc}+/gu, ' ');
}
