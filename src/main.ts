import { runCommandLine } from './cli/program.ts';

// Not process.exit(): what was written to a pipe must still get through.
process.exitCode = await runCommandLine(process.argv);
