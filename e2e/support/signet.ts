import { execFile } from 'node:child_process';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { AdminClient } from '../../src/clients/admin/admin-client.ts';
import { HealthService, State } from '../../src/gen/signet/health/v1/health.ts';
import { callUnary, unixChannel } from '../../src/rpc/grpc-client.ts';
import { buildCsr } from '../../src/x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey } from '../../src/x509/signature.ts';
import { signetBinary } from './checkout.ts';
import type { Patience } from './eventually.ts';
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
export async function trySignet(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  input = '',
): Promise<CommandResult> {
  const options = { timeout: 30_000, env: { ...process.env, ...env } };
  return await new Promise((resolve, reject) => {
    const child = execFile(signetBinary, args, options, (error, stdout, stderr) => {
      if (error === null) resolve({ code: 0, stdout, stderr });
      else if (typeof error.code === 'number') resolve({ code: error.code, stdout, stderr });
      else reject(new Error(`signet ${args.join(' ')}: ${error.message}`, { cause: error }));
    });
    child.stdin?.end(input);
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
  readonly dataDir: string;
  protected readonly sandbox: Sandbox;
  readonly #role: 'server' | 'agent';
  readonly configPath: string;
  /** What is started, with the configuration file as its last argument. */
  protected program: readonly string[];
  #process: RunningProcess | undefined;

  protected constructor(sandbox: Sandbox, role: 'server' | 'agent', dir: string) {
    this.sandbox = sandbox;
    this.#role = role;
    this.configPath = join(dir, `${role}.yaml`);
    this.program = [signetBinary, role, 'run', '--config'];
    this.adminSocket = join(dir, 'admin', 'admin.sock');
    this.dataDir = join(dir, 'data');
  }

  get process(): RunningProcess {
    if (this.#process === undefined) throw new Error(`the ${this.#role} was not started`);
    return this.#process;
  }

  /** Starts it with the configuration it has and waits until it says it is well. */
  async start(patience?: Patience): Promise<void> {
    await this.launch();
    await this.waitUntilHealthy(patience);
  }

  /** Starts it with the configuration it has, and does not wait for anything. */
  async launch(env: Readonly<Record<string, string>> = {}): Promise<RunningProcess> {
    const name = `signet ${this.#role}`;
    const [command = '', ...args] = [...this.program, this.configPath];
    this.#process = await this.sandbox.start({ name, command, args, env });
    return this.#process;
  }

  async waitUntilHealthy(patience: Patience = { timeoutMs: 20_000 }): Promise<void> {
    await this.process.until('healthy', () => this.#isHealthy(), patience);
  }

  async stop(options?: { signal?: NodeJS.Signals }): Promise<Exit> {
    return await this.process.stop(options);
  }

  protected async writeConfig(config: object): Promise<void> {
    await writeFile(this.configPath, stringify(config), { mode: 0o600 });
  }

  /** What `signet health` asks; without the 0.5 s that a new process takes. */
  async #isHealthy(): Promise<boolean> {
    const channel = unixChannel(this.adminSocket);
    try {
      const { state } = await callUnary(channel, HealthService.getHealth, {}, { timeoutMs: 1_000 });
      return state === State.OK;
    } finally {
      channel.close();
    }
  }
}

/** PEM, as `node:tls` takes it. */
export interface CertificateWithKey {
  readonly cert: string;
  readonly key: string;
}

/** A registration as `signet entry create` takes it. */
export interface EntryRequest {
  readonly spiffeId: string;
  readonly parent: string;
  readonly selectors: readonly string[];
  /** Such as `90s`. */
  readonly x509Ttl?: string;
  readonly federatesWith?: readonly string[];
}

/** How a server is set up; `config` is laid over the configuration that is made here. */
export interface ServerOptions {
  readonly name?: string;
  readonly trustDomain?: string;
  readonly config?: object;
  /** Started in place of `signet server run --config`, with the configuration file as its last argument. */
  readonly program?: readonly string[];
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

  /** `prepare` and `start`. */
  static async start(
    sandbox: Sandbox,
    { patience, ...options }: ServerOptions & { readonly patience?: Patience | undefined } = {},
  ): Promise<SignetServer> {
    const server = await SignetServer.prepare(sandbox, options);
    await server.start(patience);
    return server;
  }

  /** A server that is configured and not started. */
  static async prepare(
    sandbox: Sandbox,
    { name = 'server', trustDomain = 'example.org', config = {}, program }: ServerOptions = {},
  ): Promise<SignetServer> {
    const dir = join(sandbox.dir, name);
    await mkdir(dir, { recursive: true });
    const server = new SignetServer(sandbox, dir, trustDomain, `127.0.0.1:${await freePort()}`);
    if (program !== undefined) server.program = program;
    await server.writeConfig({
      trustDomain,
      dataDir: server.dataDir,
      listen: server.address,
      adminSocket: server.adminSocket,
      ...config,
    });
    return server;
  }

  /** Calls the administration API from this process, without the 0.5 s that a command takes. */
  async call<T>(work: (client: AdminClient, signal: AbortSignal) => Promise<T>): Promise<T> {
    const channel = unixChannel(this.adminSocket);
    try {
      return await work(new AdminClient(channel), AbortSignal.timeout(15_000));
    } finally {
      channel.close();
    }
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
  async createEntry(request: EntryRequest): Promise<string> {
    const { spiffeId, parent, selectors, x509Ttl, federatesWith = [] } = request;
    const options = selectors.flatMap((selector) => ['--selector', selector]);
    if (x509Ttl !== undefined) options.push('--x509-ttl', x509Ttl);
    options.push(...federatesWith.flatMap((trustDomain) => ['--federates-with', trustDomain]));
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

  /** A certificate for any identity, as administrators can have one; the key is made here. */
  async mint(spiffeId: string, { ttlSeconds }: { ttlSeconds: number }): Promise<CertificateWithKey> {
    const key = await generatePrivateKey('ec-p256');
    const csr = await buildCsr({ signer: createSoftwareSigner(key), uris: [spiffeId] });
    const chain = await this.call(({ svids }) =>
      svids.mintX509({ csr, ttlSeconds, signal: AbortSignal.timeout(5_000) }),
    );
    const cert = chain.map((certificate) => certificate.toPem()).join('');
    return { cert, key: key.export({ type: 'pkcs8', format: 'pem' }).toString() };
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

  private constructor(sandbox: Sandbox, name: string, alias: string) {
    super(sandbox, 'agent', join(sandbox.dir, name));
    this.socket = SignetAgent.socketIn(sandbox, name);
    this.alias = alias;
  }

  /** The SPIFFE ID that an agent of this name will answer to, known before it is prepared. */
  static aliasOf(server: SignetServer, name = 'agent'): string {
    return `spiffe://${server.trustDomain}/node/${name}`;
  }

  /** Where the workload socket of an agent of this name will be. */
  static socketIn(sandbox: Sandbox, name = 'agent'): string {
    return join(sandbox.dir, name, 'run', 'api.sock');
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
    const agent = new SignetAgent(sandbox, name, SignetAgent.aliasOf(server, name));
    const [token, bundle] = await Promise.all([server.createToken(agent.alias), server.bundle()]);
    await writeFile(join(dir, 'bundle.pem'), bundle);
    await agent.writeConfig({
      trustDomain: server.trustDomain,
      dataDir: agent.dataDir,
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
