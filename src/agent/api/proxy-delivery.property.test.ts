import fc from 'fast-check';
import { expect, test } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import {
  absentResource,
  type FakeCertificate,
  FakeSecretSource,
  type FakeTrust,
  fakeCertificate,
  fakeTrust,
} from '../../testing/secret-source.ts';
import type { StreamBooks } from './delivery-stream.ts';
import { ProxyDeliveries } from './proxy-deliveries.ts';
import type { ProxyDelivery } from './proxy-delivery.ts';
import { maxTries } from './quarantine.ts';
import type { Resource } from './resource.ts';
import type { EncodedSecret } from './secrets.ts';

/** Envoy has a provider for each of these, with a stream of its own; `web` and `ALL` twice, by two configurations. */
const providers = ['web', 'ALL', 'api', 'web', 'ALL', 'td'] as const;
/** Certificate and trust of each listener, as places in `providers`. */
const listeners = [
  [0, 1],
  [2, 1],
  [3, 4],
  [0, 5],
] as const;
const certificates: readonly string[] = ['web', 'api'];
const names: readonly string[] = [...new Set(providers)];
const hour = 3_600_000;

/** The label says whether Envoy can do anything with it. */
function isBad({ version }: EncodedSecret): boolean {
  return version.includes('bad');
}

function contentOf({ version }: EncodedSecret): string {
  return version.replace(/\+\d+$/, '');
}

/**
 * Good and bad ones; ones that take something back (a root, or an identity for another one); none, because something is
 * wrong with it; and none that the workload may have.
 */
type Kind = 'good' | 'bad' | 'cut' | 'unfit' | 'gone';

/** One of Envoy's secret providers with the stream to it, both directions of which are queues. */
interface Provider {
  readonly name: string;
  books: StreamBooks | undefined;
  /** What the server has sent on this stream last. */
  told: string | undefined;
  readonly toEnvoy: EncodedSecret[];
  readonly toServer: { readonly secret: EncodedSecret; readonly error: string | undefined }[];
  /** What Envoy keeps, whether it can use it or not; over all streams. */
  stored: EncodedSecret | undefined;
}

interface Listener {
  readonly certificate: Provider;
  readonly trust: Provider;
  /** What new connections are made with. */
  active: readonly EncodedSecret[];
  /** Its certificate came before the bundle and was bad: a good one alone may not revive it (envoy#42438). */
  isWedged: boolean;
}

/** An Envoy after envoy-sds.md §1.7, a proxy's book, and all that is on its way between them. */
class Simulation {
  readonly source = new FakeSecretSource();
  readonly clock = new FakeClock();
  readonly delivery: ProxyDelivery;
  readonly providers: readonly Provider[];
  readonly listeners: readonly Listener[];
  /** Bytes that were refused, as the server knows. */
  readonly #refused = new Set<string>();
  readonly #triesOf = new Map<string, Set<string>>();
  #isInCall = false;
  #serial = 0;

  constructor(onWithdraw: 'keep' | 'block') {
    const settings = { onWithdraw, ackTimeoutMs: 30_000, closeStalled: false } as const;
    const deps = { source: this.source, settings, clock: this.clock, log: silentLogger };
    const peer = { pid: 1, uid: 2, gid: 3, instance: 'x', isAlive: () => true };
    this.delivery = new ProxyDeliveries(deps).of({ peer, selectors: [], view: this.source.view });
    const queues = () => ({ toEnvoy: [], toServer: [] });
    this.providers = providers.map((name) => {
      return { name, books: undefined, told: undefined, ...queues(), stored: undefined };
    });
    this.listeners = listeners.map(([certificate, trust]) => {
      return {
        certificate: this.providers[certificate]!,
        trust: this.providers[trust]!,
        active: [],
        isWedged: false,
      };
    });
    this.source.view.subscribe(() => {
      for (const provider of this.providers) this.#pump(provider);
    });
  }

  change(name: string, kind: Kind): void {
    this.#serial += 1;
    const label = `${kind}${this.#serial}`;
    this.source.set({ [name]: this.#resource(name, kind, label) });
  }

  #resource(name: string, kind: Kind, label: string): Resource {
    if (kind === 'unfit') return { kind, problem: 'broken' };
    if (kind === 'gone') return absentResource;
    if (certificates.includes(name)) {
      return fakeCertificate(label, this.clock.now(), kind === 'cut' ? label : 'web');
    }
    return fakeTrust(label, kind === 'cut' ? ['a'] : ['a', 'b']);
  }

  newest(name: string): string {
    const resource = this.source.resolve(name, this.source.view.value);
    return 'label' in resource ? String(resource.label) : '';
  }

  connect(provider: Provider): void {
    if (provider.books !== undefined) return;
    this.delivery.follow(this.source.view);
    const connection = this.providers.indexOf(provider) < 3 ? this.providers : this.listeners;
    provider.books = this.delivery.open(connection, {
      protocol: 'sotw',
      changed: () => {
        expect(this.#isInCall, 'told within a call').toBe(false);
        this.#pump(provider);
      },
      stalled: () => undefined,
    });
    provider.told = undefined;
    this.#call(() => provider.books?.requested([provider.name]));
    this.#pump(provider);
  }

  /** What is on its way is lost; Envoy keeps what it has stored. */
  disconnect(provider: Provider): void {
    this.#call(() => provider.books?.close());
    provider.books = undefined;
    provider.toEnvoy.length = 0;
    provider.toServer.length = 0;
  }

  /** Envoy reads one response. */
  receive(provider: Provider): boolean {
    const secret = provider.toEnvoy.shift();
    if (secret === undefined) return false;
    provider.toServer.push({ secret, error: this.#update(provider, secret) });
    return true;
  }

  /** The server reads one answer. */
  answer(provider: Provider): boolean {
    const answer = provider.toServer.shift();
    if (answer === undefined) return false;
    const { secret, error } = answer;
    if (error !== undefined) {
      this.#refused.add(secret.version);
      const tries = this.#triesOf.get(contentOf(secret)) ?? new Set<string>();
      this.#triesOf.set(contentOf(secret), tries.add(secret.version));
    }
    this.#call(() => provider.books?.answered(provider.name, secret.version, error));
    this.#pump(provider);
    return true;
  }

  async settle(): Promise<void> {
    for (let round = 0, isMoving = true; isMoving; round += 1) {
      expect(round, 'settles').toBeLessThan(500);
      isMoving = false;
      for (const provider of this.providers) {
        isMoving = this.receive(provider) || isMoving;
        isMoving = this.answer(provider) || isMoving;
      }
      await Promise.resolve();
    }
  }

  /** Envoy's side of it: returns why it refuses, if it does. */
  #update(provider: Provider, secret: EncodedSecret): string | undefined {
    // The same bytes as before are acknowledged without a look at them.
    if (provider.stored?.version === secret.version) return undefined;
    const isFirst = provider.stored === undefined;
    provider.stored = secret;
    let error: string | undefined;
    let isRevived = false;
    for (const listener of this.listeners) {
      const { certificate, trust } = listener;
      if ((certificate !== provider && trust !== provider) || !certificate.stored || !trust.stored) continue;
      const culprit = [trust.stored, certificate.stored].find(isBad);
      if (culprit !== undefined) {
        error = `bad: ${culprit.version}`;
        if (isFirst && provider === trust && listener.active.length === 0) listener.isWedged = true;
        continue;
      }
      if (listener.isWedged && provider === certificate && isRevived) continue;
      isRevived ||= listener.isWedged;
      listener.isWedged = false;
      listener.active = [certificate.stored, trust.stored];
    }
    return error;
  }

  #pump(provider: Provider): void {
    const { books, name } = provider;
    if (books === undefined) return;
    const secret = this.delivery.lookup(name);
    if (secret === undefined || secret.version === provider.told) return;
    expect(this.#refused.has(secret.version), `${secret.version} was refused`).toBe(false);
    const tries = this.#triesOf.get(contentOf(secret))?.size ?? 0;
    expect(tries, `tries of ${contentOf(secret)}`).toBeLessThan(maxTries.inOrder);
    this.#expectAllowed(secret);
    provider.told = secret.version;
    provider.toEnvoy.push(secret);
    this.#call(() => books.sent(name, secret));
  }

  /** Withdrawals wait for nothing: what is not allowed any more is not sent, whatever was good before. */
  #expectAllowed({ name, version }: EncodedSecret): void {
    const now = this.source.resolve(name, this.source.view.value);
    const [, label = ''] = version.split(' ');
    if (now.kind === 'held') expect(label, 'to who may have nothing').toMatch(/^nobody/);
    else if (now.kind === 'trust') {
      const isCut = (now as FakeTrust).anchors.length === 1;
      if (isCut) expect(label, 'what was revoked').toMatch(/^cut|\/a|^nobody/);
    } else if (now.kind === 'certificate') {
      const { identity } = now as FakeCertificate;
      if (identity === 'web') expect(label, 'another identity').not.toMatch(/^cut/);
      else expect(label.replace(/\+.*/, ''), 'another identity').toBe(identity);
    }
  }

  #call(act: () => void): void {
    this.#isInCall = true;
    act();
    this.#isInCall = false;
  }
}

type Step =
  | { readonly change: string; readonly to: Kind }
  | { readonly provider: number; readonly does: 'connect' | 'disconnect' | 'receive' | 'answer' }
  | { readonly waitMs: number }
  | 'settle';

async function run(simulation: Simulation, step: Step): Promise<void> {
  if (step === 'settle') await simulation.settle();
  else if ('change' in step) simulation.change(step.change, step.to);
  else if ('waitMs' in step) await simulation.clock.advance(step.waitMs);
  else simulation[step.does](simulation.providers[step.provider]!);
  await Promise.resolve();
}

const name = fc.constantFrom(...names);
const provider = fc.nat(providers.length - 1);
function doing(does: 'connect' | 'disconnect' | 'receive' | 'answer') {
  return fc.record({ provider, does: fc.constant(does) });
}
const anyStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      change: name,
      to: fc.constantFrom('good', 'good', 'bad', 'bad', 'cut', 'unfit', 'gone'),
    }),
  },
  { weight: 4, arbitrary: doing('connect') },
  { weight: 1, arbitrary: doing('disconnect') },
  { weight: 8, arbitrary: doing('receive') },
  { weight: 8, arbitrary: doing('answer') },
  { weight: 1, arbitrary: fc.record({ waitMs: fc.constantFrom(20, 60, 40_000, hour / 2) }) },
  { weight: 2, arbitrary: fc.constant('settle') },
);

test('whatever happens, in the end every listener has the newest of all, and no bytes were sent twice that were refused', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('keep', 'block'),
      fc.array(anyStep, { maxLength: 60, size: 'max' }),
      async (onWithdraw, steps) => {
        const simulation = new Simulation(onWithdraw);
        for (const step of steps) await run(simulation, step);
        await simulation.settle();
        for (const name of names) simulation.change(name, 'good');
        for (const provider of simulation.providers) simulation.connect(provider);
        await simulation.settle();
        await simulation.clock.advance(hour);
        await simulation.settle();
        for (const { certificate, trust, active } of simulation.listeners) {
          const newest = [certificate, trust].map(({ name }) => `${name} ${simulation.newest(name)}`);
          expect(active.map(contentOf)).toEqual(newest);
        }
      },
    ),
    { numRuns: 1_000 },
  );
}, 60_000);
