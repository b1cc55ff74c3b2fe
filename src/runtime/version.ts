import { readFileSync } from 'node:fs';
import { z } from 'zod';

// The same distance from src/runtime and from dist/runtime.
const packageFile = new URL('../../package.json', import.meta.url);

/** The version of this program, as in `package.json`. */
export const version: string = z
  .looseObject({ version: z.string() })
  .parse(JSON.parse(readFileSync(packageFile, 'utf8'))).version;
