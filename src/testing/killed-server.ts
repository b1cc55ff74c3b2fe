import { readFileSync } from 'node:fs';
import { enableCompileCache } from 'node:module';
import { fileURLToPath } from 'node:url';

// A whole server, as `signet server run` starts it, that ends by SIGKILL at the step of the authority's journal which
// a file names: killed-server.ts ORDER CONFIG, where ORDER holds `root certified`, or nothing.
const [orderFile = '', configPath = ''] = process.argv.slice(2);
// As bin/start.mjs does: the types are stripped once for all.
enableCompileCache(fileURLToPath(new URL('../../.cache/compile', import.meta.url)));
const { interruption } = await import('../cli/command.ts');
const { serve } = await import('../cli/run-server.ts');
const { readConfigFile } = await import('../runtime/config-file.ts');
const { loggerOf } = await import('../runtime/log-settings.ts');
const { checkServerConfig, serverConfigSchema } = await import('../server/config.ts');

const config = await readConfigFile(configPath, serverConfigSchema);
checkServerConfig(config, configPath);
await serve(config, configPath, {
  signal: interruption(),
  log: loggerOf(config.log),
  onAuthorityStep(step, role) {
    if (readFileSync(orderFile, 'utf8') === `${role} ${step}`) process.kill(process.pid, 'SIGKILL');
  },
});
