import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';

it('names no registry in the lock file: whoever installs uses their own', () => {
  const lock = JSON.parse(readFileSync('package-lock.json', 'utf8')) as {
    packages: Record<string, { resolved?: string; integrity?: string; link?: boolean }>;
  };
  const entries = Object.entries(lock.packages).filter(([path]) => path.startsWith('node_modules/'));
  expect(entries.length).toBeGreaterThan(100);
  const fetched = entries.filter(([, entry]) => entry.link !== true);
  expect(fetched.filter(([, entry]) => entry.resolved !== undefined)).toEqual([]);
  expect(fetched.filter(([, entry]) => entry.integrity === undefined)).toEqual([]);
});

it('pins exact versions', () => {
  const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as Record<string, Record<string, string>>;
  const versions = Object.values({ ...manifest['dependencies'], ...manifest['devDependencies'] });
  expect(versions.filter((version) => !/^\d+\.\d+\.\d+$/.test(version))).toEqual([]);
});
