import { chown, readFile, rename, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { type EnvoyFiles, type Listener, listenerFile, parseListenerFile } from './envoy-config.ts';
import type { Patience } from './eventually.ts';
import type { RunningProcess } from './process.ts';
import type { ProxyIdentity } from './proxy-identity.ts';
import type { Sandbox } from './sandbox.ts';

/** Of Envoy's page `/certs`. */
interface CertificateDetails {
  readonly cert_chain: readonly {
    readonly serial_number: string;
    readonly subject_alt_names: readonly { readonly uri?: string }[];
  }[];
  readonly ca_cert: readonly { readonly serial_number: string; readonly expiration_time: string }[];
}

/** A real Envoy in a sandbox: one worker, admin on a Unix socket, no hot restart and so nothing shared with others. */
export class EnvoyProcess {
  readonly identity: ProxyIdentity;
  readonly process: RunningProcess;
  readonly #adminSocket: string;

  private constructor(identity: ProxyIdentity, started: RunningProcess) {
    this.identity = identity;
    this.process = started;
    this.#adminSocket = join(identity.dir, 'admin.sock');
  }

  /** Starts it; returns when its admin interface answers, not when its listeners are open: see `waitUntilReady`. */
  static async start(sandbox: Sandbox, identity: ProxyIdentity, files: EnvoyFiles): Promise<EnvoyProcess> {
    const { uid } = identity;
    for (const [name, text] of Object.entries(files)) await writeFor(identity, name, text);
    const started = await sandbox.start({
      name: `envoy ${identity.name}`,
      command: identity.binary,
      args: [
        '--config-path',
        join(identity.dir, 'envoy.yaml'),
        '--concurrency',
        '1',
        '--disable-hot-restart',
        '--log-level',
        'warning',
        '--file-flush-interval-msec',
        '50',
      ],
      cwd: identity.dir,
      ...(uid === undefined ? {} : { uid, gid: uid }),
    });
    const envoy = new EnvoyProcess(identity, started);
    await started.until('its admin interface', async () => (await envoy.admin('/server_info')) !== '');
    return envoy;
  }

  /** Waits until every listener is open (`/ready` says 200). */
  async waitUntilReady(patience?: Patience): Promise<void> {
    await this.until('ready', async () => (await this.admin('/ready')) !== '', patience);
  }

  /** Waits for a condition this Envoy brings about; fails with its output. */
  async until<T>(
    what: string,
    look: () => T | Promise<T>,
    patience?: Patience,
  ): Promise<Exclude<T, undefined | false>> {
    return await this.process.until(what, look, patience);
  }

  /** What the admin interface answers to GET; throws unless it answers 200. */
  async admin(path: string): Promise<string> {
    return await new Promise((resolve, reject) => {
      const call = request(
        { socketPath: this.#adminSocket, path, agent: false, timeout: 5_000 },
        (response) => {
          let body = '';
          response.setEncoding('utf8');
          response.on('data', (chunk: string) => {
            body += chunk;
          });
          response.on('end', () => {
            if (response.statusCode === 200) resolve(body);
            else reject(new Error(`envoy admin ${path}: ${response.statusCode} ${body.trim()}`));
          });
        },
      );
      call.on('timeout', () => call.destroy(new Error(`envoy admin ${path}: no answer`)));
      call.on('error', reject);
      call.end();
    });
  }

  /** The port a listener really has. */
  async port(listener: string): Promise<number> {
    const text = await this.admin('/listeners?format=json');
    const { listener_statuses = [] } = JSON.parse(text) as {
      listener_statuses?: { name: string; local_address: { socket_address: { port_value: number } } }[];
    };
    const found = listener_statuses.find(({ name }) => name === listener);
    if (found === undefined)
      throw new Error(`envoy ${this.identity.name} has no listener "${listener}": ${text}`);
    return found.local_address.socket_address.port_value;
  }

  /** Exchanges the listeners of an Envoy that was started with `hasListenerFile`. */
  async replaceListeners(change: (now: readonly Listener[]) => readonly Listener[]): Promise<void> {
    const path = join(this.identity.dir, 'listeners.json');
    const listeners = change(parseListenerFile(await readFile(path, 'utf8')));
    // Envoy looks when something is moved there, not when something is written.
    const next = await writeFor(this.identity, 'listeners.json.new', listenerFile(listeners));
    await rename(next, path);
  }

  /** Counters and gauges whose names match, such as `^sds\.`. */
  async stats(filter: RegExp): Promise<ReadonlyMap<string, number>> {
    const text = await this.admin(`/stats?format=json&filter=${encodeURIComponent(filter.source)}`);
    const { stats } = JSON.parse(text) as { stats: { name?: string; value?: number }[] };
    return new Map(
      stats.flatMap(({ name, value }) => (name === undefined || value === undefined ? [] : [[name, value]])),
    );
  }

  /** One counter or gauge; 0 while Envoy does not have it yet. */
  async stat(name: string): Promise<number> {
    const found = await this.stats(new RegExp(`^${RegExp.escape(name)}$`));
    return found.get(name) ?? 0;
  }

  /** Its own certificates: SPIFFE ID and serial number (lower-case hex), in the order of use. */
  async ownCertificates(): Promise<readonly { readonly id: string; readonly serial: string }[]> {
    const certificates = await this.#certificates();
    return certificates.flatMap(({ cert_chain: [leaf] }) =>
      leaf === undefined ? [] : [{ id: leaf.subject_alt_names[0]?.uri ?? '', serial: leaf.serial_number }],
    );
  }

  /** The roots it trusts: serial number, and when each expires (Unix ms). */
  async trustedRoots(): Promise<ReadonlyMap<string, number>> {
    const roots = (await this.#certificates()).flatMap(({ ca_cert }) => ca_cert);
    return new Map(roots.map((root) => [root.serial_number, Date.parse(root.expiration_time)]));
  }

  /** A context with a SPIFFE bundle is listed once for its certificate and once for each root. */
  async #certificates(): Promise<readonly CertificateDetails[]> {
    const page = JSON.parse(await this.admin('/certs')) as { certificates: CertificateDetails[] };
    return page.certificates;
  }

  /** The secrets it holds, and the version of each as the agent sent it. */
  async secretVersions(): Promise<ReadonlyMap<string, string>> {
    const text = await this.admin('/config_dump?resource=dynamic_active_secrets&mask=name,version_info');
    const { configs = [] } = JSON.parse(text) as { configs?: { name: string; version_info: string }[] };
    return new Map(configs.map(({ name, version_info }) => [name, version_info]));
  }
}

/** Writes a file that the proxy can read into its folder; returns its path. */
async function writeFor({ dir, uid }: ProxyIdentity, name: string, text: string): Promise<string> {
  const path = join(dir, name);
  await writeFile(path, text);
  if (uid !== undefined) await chown(path, uid, uid);
  return path;
}
