/**
 * `make demo`: a whole mesh on this machine, told live until Ctrl-C. DEMO_ROTATIONS=N ends it by itself,
 * DEMO_ENVOY=none shows the same without Envoy.
 */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { Sandbox } from '../e2e/support/sandbox.ts';
import { readSettings, type Settings } from './settings.ts';
import { tellStory } from './story.ts';
import { Terminal } from './terminal.ts';

/** Aborts at the first Ctrl-C, or when nobody reads the output any more; a second Ctrl-C ends the demo at once. */
function interruption(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(130);
      controller.abort();
      // The terminal has written ^C.
      if (process.stdout.isTTY) process.stdout.write('\n');
    });
  }
  process.stdout.on('error', () => controller.abort());
  return controller.signal;
}

/** Prints what went wrong with the last output of every process. */
function report(error: unknown, sandbox: Sandbox, terminal: Terminal): void {
  const text = error instanceof Error ? error.message : String(error);
  terminal.bad('failed', text.replace(/\nlast output of .*/s, ''));
  for (const started of sandbox.processes) terminal.write(`\n${started.tail(12)}`);
}

async function run(settings: Settings): Promise<number> {
  const terminal = new Terminal(process.stdout);
  const signal = interruption();
  const interrupted = once(signal, 'abort');
  const sandbox = await Sandbox.create();
  // Also when a second Ctrl-C cuts the end short; by then no process runs any more.
  process.once('exit', () => rmSync(sandbox.dir, { recursive: true, force: true, maxRetries: 3 }));
  const story = tellStory({ sandbox, terminal, signal, ...settings }).then(
    () => 0,
    (error: unknown) => {
      // What is being ended while it starts, fails: that is no news.
      if (signal.aborted) return 0;
      report(error, sandbox, terminal);
      return 1;
    },
  );
  await Promise.race([story, interrupted]);
  await sandbox.dispose();
  const code = await story;
  // Whatever the story may still have started after the interruption.
  await sandbox.dispose();
  terminal.write(terminal.style('dim', 'All processes are ended, all files are removed.'));
  return code;
}

process.exit(await run(readSettings(process.env)));
