const levelColors: Readonly<Record<string, string>> = { warn: '33', error: '31', debug: '90', trace: '90' };
/** Printed bare; anything else is quoted, so that no value can forge a field or steer the terminal. */
const plainText = /^[\w./:@+,-]+$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is removed
const controlCharacters = /[\x00-\x1f\x7f-\x9f]/g;

/** One JSON log line as people read it on a terminal: `12:00:00.000 INFO  message name=value`. */
export function prettyLine(jsonLine: string, colors: boolean): string {
  const { time, level, message, ...fields } = JSON.parse(jsonLine) as Record<string, unknown>;
  const label = String(level).toUpperCase().padEnd(5);
  const color = levelColors[String(level)];
  const shownLevel = colors && color !== undefined ? `\x1b[${color}m${label}\x1b[0m` : label;
  const shownFields = Object.entries(fields).flatMap(([name, value]) => prettyField(name, value));
  const parts = [
    String(time).slice(11, 23),
    shownLevel,
    escapeControls(String(message ?? '')),
    ...shownFields,
  ];
  return `${parts.join(' ')}\n`;
}

function prettyField(name: string, value: unknown): readonly string[] {
  if (name === 'error' && typeof value === 'object' && value !== null) {
    return Object.entries(value).map(([part, inner]) => {
      return `${part === 'message' ? 'error' : `error.${part}`}=${prettyValue(inner)}`;
    });
  }
  return [`${name}=${prettyValue(value)}`];
}

function prettyValue(value: unknown): string {
  if (typeof value === 'string' && plainText.test(value)) return value;
  return escapeControls(JSON.stringify(value));
}

function escapeControls(text: string): string {
  return text.replaceAll(controlCharacters, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
