import { spawnSync } from 'node:child_process';
import { describe, it } from 'vitest';
import { envoyVersions, findEnvoy } from './checkout.ts';

const isThere = {
  envoy: () => findEnvoy() !== undefined,
  'older Envoys': () => envoyVersions.every((version) => findEnvoy(version) !== undefined),
  linux: () => process.platform === 'linux',
  'a C compiler': () => spawnSync('cc', ['--version']).status === 0,
} as const;

/** Real parts that some tests need and some machines lack. */
export type Part = keyof typeof isThere;

/**
 * `describe` for tests that need real parts. Where one is missing they are skipped, counted with the reason at the
 * end of the run; in CI (`CI=true`) a missing part is a failure instead.
 */
export function describeWith(
  parts: { readonly [part in Part]?: true },
  name: string,
  tests: () => void,
): void {
  const missing = (Object.keys(parts) as Part[]).filter((part) => !isThere[part]());
  if (missing.length === 0) {
    describe(name, tests);
    return;
  }
  const skipReason = `needs ${missing.join(' and ')}, missing here; "make parts" says more`;
  if (process.env['CI'] !== 'true') {
    describe(name, { skip: true, meta: { skipReason } as object }, tests);
    return;
  }
  describe(name, () => {
    it('has the parts it needs', () => {
      throw new Error(skipReason);
    });
  });
}
