// Compiles native/signet.c to native/signet.node: one call of the C compiler, no node-gyp. Does nothing when the
// addon is up to date. Exit code 1 with one line on stderr when it cannot.
import { spawnSync } from 'node:child_process';
import { existsSync, renameSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const script = fileURLToPath(import.meta.url);
const root = dirname(dirname(script));
const source = join(root, 'native', 'signet.c');
const target = join(root, 'native', 'signet.node');

function main() {
  if (process.platform !== 'linux') {
    return console.log(
      `native addon: not built: ${process.platform} has no peer credentials that Signet can use`,
    );
  }
  if (isUpToDate()) return console.log('native addon: up to date');
  compile(findIncludes());
  console.log('native addon: built native/signet.node');
}

/** Newer than what it is made from, and loadable here: a checkout may have been copied from another architecture. */
function isUpToDate() {
  if (!existsSync(target)) return false;
  const built = statSync(target).mtimeMs;
  if (built < statSync(source).mtimeMs || built < statSync(script).mtimeMs) return false;
  try {
    createRequire(import.meta.url)(target);
    return true;
  } catch {
    return false;
  }
}

function findIncludes() {
  const candidates = [
    join(root, 'node_modules', `node-linux-${process.arch}`, 'include', 'node'),
    join(dirname(dirname(process.execPath)), 'include', 'node'),
  ];
  const found = candidates.find((directory) => existsSync(join(directory, 'node_api.h')));
  return found ?? fail(`node_api.h not found in ${candidates.join(' or ')}; run: npm ci`);
}

function compile(includes) {
  const output = `${target}.${process.pid}.tmp`;
  const flags =
    '-shared -fPIC -O2 -s -nodefaultlibs -Wall -Wextra -Werror=implicit-function-declaration'.split(' ');
  for (const compiler of process.env.CC ? [process.env.CC] : ['cc', 'gcc', 'clang']) {
    const result = spawnSync(compiler, [
      ...flags,
      '-DNODE_GYP_MODULE_NAME=signet',
      '-I',
      includes,
      '-o',
      output,
      source,
    ]);
    if (result.error?.code === 'ENOENT') continue;
    if (result.error !== undefined) fail(`${compiler}: ${result.error.message}`);
    if (result.status !== 0) {
      rmSync(output, { force: true });
      fail(`${compiler} failed:\n${result.stderr}`);
    }
    // Renamed into place: a process that has the old one mapped must not see it change.
    renameSync(output, target);
    return;
  }
  fail(
    'no C compiler found (tried $CC, cc, gcc, clang); on Debian or Ubuntu run: apt-get install gcc libc6-dev',
  );
}

/** @returns {never} */
function fail(message) {
  console.error(`native addon: ${message}`);
  process.exit(1);
}

main();
