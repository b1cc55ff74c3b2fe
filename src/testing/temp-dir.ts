import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';

/** A new directory (0700) that is removed when the current test ends. */
export function tempDir(): string {
  const path = mkdtempSync(join(tmpdir(), 'signet-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}
