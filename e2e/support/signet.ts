import { execFile } from 'node:child_process';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { signetBinary } from './checkout.ts';
import { freePort } from './free-port.ts';
import type { Exit, RunningProcess } from './process.ts';
import type { Sandbox } from './sandbox.ts';

/** What a `signet` command printed and its exit code. */
export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs one command to its end, at most 30 s; does not throw when it fails. */
export async function trySignet(args: readonly string[]): Promise<CommandResult> {
  return await new Promise((resolve, reject) => {
    execFile(signetBinary, args, { timeout: 30_000 }, (error, stdout, stderr) => {
      if (error === null) resolve({ code: 0, stdout, stderr });
      else if (typeof error.code === 'number') resolve({ code: error.code, stdout, stderr });
      else reject(new Error(`signet ${args.join(' ')}: ${error.message}`, { cause: error }));
    });
  });
}

/** Runs one command and returns what it printed; throws with its error text when it fails. */
export async function signet(args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await trySignet(args);
  if (code !== 0) throw new Error(`signet ${args.join(' ')}: exit code ${code}: ${stderr.trim()}`);
  return stdout.trim();
}

/** What both roles share: a configuration file, a process that can be started again, and readiness. */
class Role {
  readonly adminSocket: string;
  protected readonly sandbox: Sandbox;
  readonly #role: 'server' | 'agent';
  readonly #configPath: string;
  #process: RunningProcess | undefined;

  protected constructor(sandbox: Sandbox, role: 'server' | 'agent', dir: string) {
    this.sandbox = sandbox;
    this.#role = role;
    this.#configPath = join(dir, `${role}.yaml`);
    this.adminSocket = join(dir, 'admin', 'admin.sock');
  }

  get process(): RunningProcess {
    if (this.#process === undefined) throw new Error(`the ${this.#role} was not started`);
    return this.#process;
  }

  /** Starts it with the configuration it has and waits until it says it is well. */
  async start(): Promise<void> {
    const name = `signet ${this.#role}`;
    const args = [this.#role, 'run', '--config', this.#configPath];
    this.#process = await this.sandbox.start({ name, command: signetBinary, args });
    await this.#process.until('healthy', () => this.#isHealthy(), { timeoutMs: 20_000 });
  }

  async stop(options?: { signal?: NodeJS.Signals }): Promise<Exit> {
    return await this.process.stop(options);
  }

  protected async writeConfig(config: object): Promise<void> {
    await writeFile(this.#configPath, stringify(config), { mode: 0o600 });
  }

  async #isHealthy(): Promise<boolean> {
    const { code, stderr } = await trySignet(['health', '--socket', this.adminSocket]);
    if (code !== 0 && stderr !== '') throw new Error(stderr.trim());
    return code === 0;
  }
}

/** A registration as `signet entry create` takes it. */
export interface EntryRequest {
  readonly spiffeId: string;
  readonly parent: string;
  readonly selectors: readonly string[];
  /** Such as `90s`. */
  readonly x509Ttl?: string;
}

/** A `signet server run` in a sandbox, on 127.0.0.1, at the same address also after a restart. */
export class SignetServer extends Role {
  readonly address: string;
  readonly trustDomain: string;

  private constructor(sandbox: Sandbox, dir: string, trustDomain: string, address: string) {
    super(sandbox, 'server', dir);
    this.trustDomain = trustDomain;
    this.address = address;
  }

  /** `config` is laid over the configuration that is made here. */
  static async start(
    sandbox: Sandbox,
    {
      name = 'server',
      trustDomain = 'example.org',
      config = {},
    }: { name?: string; trustDomain?: string; config?: object } = {},
  ): Promise<SignetServer> {
    const dir = join(sandbox.dir, name);
    await mkdir(dir, { recursive: true });
    const server = new SignetServer(sandbox, dir, trustDomain, `127.0.0.1:${await freePort()}`);
    await server.writeConfig({
      trustDomain,
      dataDir: join(dir, 'data'),
      listen: server.address,
      adminSocket: server.adminSocket,
      ...config,
    });
    await server.start();
    return server;
  }

  /** Runs an administration command on this server's socket. */
  async admin(...args: string[]): Promise<string> {
    return await signet([...args, '--socket', this.adminSocket]);
  }

  /** A join token; the agent that redeems it also answers to `alias`, which entries can name as parent. */
  async createToken(alias: string): Promise<string> {
    return await this.admin('token', 'create', '--spiffe-id', alias);
  }

  /** The trust bundle, PEM. */
  async bundle(): Promise<string> {
    return await this.admin('bundle', 'show');
  }

  /** Registers a workload and returns the entry's id. */
  async createEntry({ spiffeId, parent, selectors, x509Ttl }: EntryRequest): Promise<string> {
    const options = selectors.flatMap((selector) => ['--selector', selector]);
    if (x509Ttl !== undefined) options.push('--x509-ttl', x509Ttl);
    return await this.admin(
      'entry',
      'create',
      '--spiffe-id',
      spiffeId,
      '--parent',
      parent,
      ...options,
      '--quiet',
    );
  }

  async deleteEntry(id: string): Promise<void> {
    await this.admin('entry', 'delete', id);
  }
}

/** A `signet agent run` in a sandbox that has joined a server by token. */
export class SignetAgent extends Role {
  /** Workload API and SDS. */
  readonly socket: string;
  /** A SPIFFE ID that its token gave it: parent of its entries. */
  readonly alias: string;

  private constructor(sandbox: Sandbox, dir: string, alias: string) {
    super(sandbox, 'agent', dir);
    this.socket = join(dir, 'run', 'api.sock');
    this.alias = alias;
  }

  /** An agent that is configured, with its token made, but not started. */
  static async prepare(
    sandbox: Sandbox,
    { name = 'agent', server, config = {} }: { name?: string; server: SignetServer; config?: object },
  ): Promise<SignetAgent> {
    const dir = join(sandbox.dir, name);
    await mkdir(join(dir, 'run'), { recursive: true });
    // Whatever the umask: workloads of other users must get to the socket.
    for (const path of [dir, join(dir, 'run')]) await chmod(path, 0o755);
    const agent = new SignetAgent(sandbox, dir, `spiffe://${server.trustDomain}/node/${name}`);
    const token = await server.createToken(agent.alias);
    await writeFile(join(dir, 'bundle.pem'), await server.bundle());
    await agent.writeConfig({
      trustDomain: server.trustDomain,
      dataDir: join(dir, 'data'),
      server: server.address,
      trustBundle: { file: join(dir, 'bundle.pem') },
      workloadSocket: agent.socket,
      adminSocket: agent.adminSocket,
      nodeAttestor: { join_token: { token } },
      syncInterval: '500ms',
      ...config,
    });
    return agent;
  }

  /** `prepare` and `start`. */
  static async join(
    sandbox: Sandbox,
    options: { name?: string; server: SignetServer; config?: object },
  ): Promise<SignetAgent> {
    const agent = await SignetAgent.prepare(sandbox, options);
    await agent.start();
    return agent;
  }
}
