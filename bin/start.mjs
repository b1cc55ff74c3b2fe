// Runs the sources in a checkout and the compiled files in a package. Must parse on any Node, to say which one is needed.
import { existsSync } from 'node:fs';

if (Number(process.versions.node.split('.')[0]) < 24) {
  process.stderr.write(
    `signet: Node.js 24 or newer is needed, this is ${process.version}: ` +
      'run "make setup" in a checkout, or install Node.js 24\n',
  );
  process.exit(127);
}
const source = new URL('../src/main.ts', import.meta.url);
const entry = existsSync(source) ? source : new URL('../dist/main.js', import.meta.url);
await import(entry.href);
