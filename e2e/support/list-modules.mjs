// Preloaded with `--import`: writes the URL of each module that the process loads, of either kind, to a file.
import { appendFileSync } from 'node:fs';
import { registerHooks } from 'node:module';

const file = process.env.SIGNET_LOADED_MODULES;
registerHooks({
  load(url, context, nextLoad) {
    appendFileSync(file, `${url}\n`);
    return nextLoad(url, context);
  },
});
