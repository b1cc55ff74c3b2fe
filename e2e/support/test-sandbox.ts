import { onTestFailed, onTestFinished, type TestContext } from 'vitest';
import { Sandbox } from './sandbox.ts';

/**
 * A sandbox for the running test: gone when it ends; when it fails, the last output of each process is printed. Tests
 * that run at the same time as others give their `context`.
 */
export async function testSandbox(
  context: Pick<TestContext, 'onTestFailed' | 'onTestFinished'> = { onTestFailed, onTestFinished },
): Promise<Sandbox> {
  const sandbox = await Sandbox.create();
  context.onTestFailed(() => {
    for (const started of sandbox.processes) process.stderr.write(`${started.tail()}\n`);
  });
  context.onTestFinished(async () => await sandbox.dispose());
  return sandbox;
}
