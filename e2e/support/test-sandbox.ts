import { onTestFailed, onTestFinished } from 'vitest';
import { Sandbox } from './sandbox.ts';

/** A sandbox for the running test: gone when it ends; when it fails, the last output of each process is printed. */
export async function testSandbox(): Promise<Sandbox> {
  const sandbox = await Sandbox.create();
  onTestFailed(() => {
    for (const started of sandbox.processes) process.stderr.write(`${started.tail()}\n`);
  });
  onTestFinished(async () => await sandbox.dispose());
  return sandbox;
}
