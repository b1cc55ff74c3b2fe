import { runCommandLine } from './cli/program.ts';

// Who reads only the beginning, such as `| head`, has had enough.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit();
});
// Not process.exit(): what was written to a pipe must still get through.
process.exitCode = await runCommandLine(process.argv);
