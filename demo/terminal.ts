import { styleText } from 'node:util';

type Format = 'bold' | 'dim' | 'green' | 'red' | 'cyan';

/** Columns before the text of a step: the time, two blanks, the label. */
const indent = ' '.repeat(22);

/** Prints the demo, one line after the other; in colour on a terminal without NO_COLOR. */
export class Terminal {
  readonly #stream: NodeJS.WriteStream;

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
  }

  /** `text` in this format where the stream shows colours. */
  style(format: Format, text: string): string {
    return styleText(format, text, { stream: this.#stream });
  }

  /** What happened, with the seconds since the start; further lines stand below the first. */
  step(label: string, ...lines: readonly string[]): void {
    this.#print('cyan', label, lines);
  }

  /** A step that shows something to be as it should be. */
  good(label: string, first: string, ...more: readonly string[]): void {
    this.#print('green', label, [`${this.style('green', '✓')} ${first}`, ...more.map((line) => `  ${line}`)]);
  }

  /** A step that shows something to be wrong. */
  bad(label: string, first: string, ...more: readonly string[]): void {
    this.#print('red', label, [`${this.style('red', '✗')} ${first}`, ...more.map((line) => `  ${line}`)]);
  }

  /** Text as it is. */
  write(text: string): void {
    this.#stream.write(`${text}\n`);
  }

  #print(format: Format, label: string, lines: readonly string[]): void {
    const time = `${(performance.now() / 1_000).toFixed(1).padStart(6)} s`;
    const head = `${this.style('dim', time)}  ${this.style(format, label.padEnd(indent.length - time.length - 2))}`;
    this.write(`${head}${lines.join(`\n${indent}`)}`);
  }
}
