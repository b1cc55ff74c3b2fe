import { spawn } from 'node:child_process';

/** All checks that are not tests of behaviour; prints the output of those that fail. Run by `make check`. */
const checks = [
  { name: 'types', command: ['tsc', '--noEmit'] },
  { name: 'lint', command: ['biome', 'check', '--error-on-warnings', '.'] },
  { name: 'architecture', command: ['vitest', 'run', '--project', 'unit', 'src/architecture.test.ts'] },
  { name: 'unused code', command: ['knip'] },
  { name: 'generated files', command: ['node', 'tools/generate.ts', '--check'] },
] as const;

type Check = (typeof checks)[number];

function run({ name, command: [program, ...args] }: Check): Promise<boolean> {
  const startedAt = performance.now();
  const output: Buffer[] = [];
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.on('data', (chunk: Buffer) => output.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => output.push(chunk));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
      process.stdout.write(`${code === 0 ? 'ok    ' : 'FAILED'} ${name} (${seconds} s)\n`);
      if (code !== 0) process.stdout.write(Buffer.concat(output));
      resolve(code === 0);
    });
  });
}

// Two at a time: each is a process of its own, and a small machine has two cores.
const queue: Check[] = [...checks];
let failed = 0;
async function work(): Promise<void> {
  for (let check = queue.shift(); check !== undefined; check = queue.shift()) {
    if (!(await run(check))) failed += 1;
  }
}
await Promise.all([work(), work()]);
process.exitCode = failed === 0 ? 0 : 1;
