// Runs the sources in a checkout and the compiled files in a package. Must parse on any Node, to say which one is needed.
import { existsSync } from 'node:fs';
import module from 'node:module';
import { fileURLToPath } from 'node:url';

if (Number(process.versions.node.split('.')[0]) < 24) {
  process.stderr.write(
    `signet: Node.js 24 or newer is needed, this is ${process.version}: ` +
      'run "make setup" in a checkout, or install Node.js 24\n',
  );
  process.exit(127);
}
const source = new URL('../src/main.ts', import.meta.url);
const entry = existsSync(source) ? source : new URL('../dist/main.js', import.meta.url);
if (entry === source) {
  // Stripping the types costs each start 0.3 s and 30 MiB. Kept beside the sources: who could change it could change them.
  module.enableCompileCache?.(fileURLToPath(new URL('../.cache/compile', import.meta.url)));
}
await import(entry.href);
