import type { Reporter, TestCase, TestModule } from 'vitest/node';

/**
 * Ends a test run with the skipped tests by reason and one plain line that CI counts:
 * `12 passed, 0 failed, 3 skipped`. A file that could not be loaded counts as a failed test.
 */
export default class TestSummary implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const counts = { passed: 0, failed: 0, skipped: 0 };
    const reasons = new Map<string, number>();
    for (const module of modules) {
      if (module.errors().length > 0) counts.failed += 1;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        if (state === 'pending') continue;
        counts[state] += 1;
        if (state === 'skipped') countReason(reasons, test);
      }
    }
    for (const [reason, count] of reasons) process.stdout.write(`skipped ${count}: ${reason}\n`);
    process.stdout.write(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped\n`);
  }
}

function countReason(reasons: Map<string, number>, test: TestCase): void {
  const result = test.result();
  const note = result.state === 'skipped' ? result.note : undefined;
  const { skipReason } = test.meta() as { skipReason?: string };
  const reason = skipReason ?? note ?? `no reason given: ${test.module.relativeModuleId} > ${test.fullName}`;
  reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
}
