import type { AuthorityRecord, AuthorityStore } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { Certificate } from '../../x509/certificate.ts';
import type { Authority } from './authority.ts';
import type { IssuedSvids } from './issued-svids.ts';
import type { StepObserver } from './journal-steps.ts';
import type { KeptBundle } from './kept-bundle.ts';
import type { AuthorityRotation } from './rotation.ts';

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly journal: AuthorityStore;
  readonly bundles: KeptBundle;
  readonly authority: Pick<Authority, 'distrust'>;
  readonly rotation: Pick<AuthorityRotation, 'inTurn' | 'prepareNow' | 'activateNow'>;
  readonly issued: Pick<IssuedSvids, 'inUse'>;
  /** Whether signing certificates are below roots; `hasOwnRoots`: below ours. */
  readonly hasUpstream: boolean;
  readonly hasOwnRoots: boolean;
  readonly onStep: StepObserver;
  readonly clock: Clock;
  readonly log: Logger;
}

/** A root, and what the journal has of it and below it. */
interface Marked {
  readonly root: Certificate;
  readonly records: readonly AuthorityRecord[];
}

/**
 * What administrators do by hand: prepare, activate, taint, revoke. Refusals have SPIRE's texts where it has any
 * (SPIRE `localauthority/v1/service.go`), and its codes but where that is INTERNAL, which would hide the text.
 */
export class AuthorityAdministration {
  readonly #deps: Deps;

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  /** Prepares another signing certificate, in place of one that is prepared already; `newRoot`: below a new root. */
  async prepare(options: {
    readonly newRoot: boolean;
    readonly signal: AbortSignal;
  }): Promise<AuthorityRecord> {
    const { rotation, hasOwnRoots } = this.#deps;
    if (options.newRoot && !hasOwnRoots) {
      throw new AppError(
        'failed-precondition',
        'a new root can be asked for only with upstreamAuthority: local_root; without an upstream authority each new authority is a new root',
      );
    }
    return rotation.prepareNow(options.newRoot ? 'next' : 'active', options.signal);
  }

  /** Lets a prepared signing certificate sign now, whoever is behind. */
  async activate(id: string): Promise<AuthorityRecord> {
    if (id === '') throw invalid('no authority ID provided');
    const record = (await this.#signing()).find((one) => one.id === id);
    if (record === undefined) throw invalid('unexpected authority ID');
    if (record.state !== 'prepared') {
      throw refused(`only Prepared authorities can be activated: ${unsupported(record)}`);
    }
    return this.#deps.rotation.activateNow(id);
  }

  /** Marks an old self-signed authority: agents replace what it has signed. */
  async taint(id: string): Promise<AuthorityRecord> {
    return this.#deps.rotation.inTurn(async () => {
      const record = (await this.#signing()).find((one) => one.id === id);
      this.#requireLocal(record, "local authority can't be tainted if there is an upstream authority");
      if (id === '') throw invalid('no authority ID provided');
      if (record?.state === 'active') throw invalid('unable to taint current local authority');
      if (record === undefined) throw invalid('unexpected authority ID');
      if (record.state !== 'old') {
        throw invalid(`only Old local authorities can be tainted: ${unsupported(record)}`);
      }
      if (record.taintedAtMs !== undefined)
        throw refused('failed to taint X.509 authority: root CA is already tainted');
      await this.#taint({ root: record.certificate, records: [record] });
      return record;
    });
  }

  /** The same for a root above old signing certificates, by its subject key identifier. */
  async taintUpstream(keyId: string): Promise<void> {
    const wanted = await this.#requireUpstream(keyId, 'provided subject key id is not valid');
    await this.#deps.rotation.inTurn(async () => {
      const marked = await this.#upstreamRoot(wanted, 'provided subject key id is not valid');
      if (!this.#deps.bundles.holds({ subjectKeyId: wanted }, { untainted: true }))
        throw refused('failed to taint upstream authority: root CA is already tainted');
      await this.#taint(marked);
    });
  }

  /** Takes a tainted authority out of the bundle; without `force` only when nothing of it can be in use. */
  async revoke(id: string, options: { readonly force: boolean }): Promise<AuthorityRecord> {
    return this.#deps.rotation.inTurn(async () => {
      const record = (await this.#signing()).find((one) => one.id === id);
      this.#requireLocal(record, "local authority can't be revoked if there is an upstream authority");
      if (id === '') throw invalid('invalid authority ID: no authority ID provided');
      if (record?.state === 'active') throw invalid('invalid authority ID: unable to use current authority');
      if (record?.state !== 'old')
        throw invalid('invalid authority ID: only Old local authority can be revoked');
      const what = 'failed to revoke X.509 authority';
      await this.#revoke({ root: record.certificate, records: [record] }, { ...options, what });
      return record;
    });
  }

  /** The same for a root above. */
  async revokeUpstream(keyId: string, options: { readonly force: boolean }): Promise<void> {
    const wanted = await this.#requireUpstream(keyId, 'invalid subject key ID');
    await this.#deps.rotation.inTurn(async () => {
      const marked = await this.#upstreamRoot(wanted, 'invalid subject key ID');
      await this.#revoke(marked, { ...options, what: 'failed to revoke X.509 upstream authority' });
    });
  }

  async #signing(): Promise<readonly AuthorityRecord[]> {
    return (await this.#deps.journal.list()).filter(({ role }) => role === 'signing');
  }

  /** A root that signed SVIDs itself before there was an upstream authority is still ours to take away. */
  #requireLocal(record: AuthorityRecord | undefined, refusal: string): void {
    if (this.#deps.hasUpstream && record?.upstreamKeyId !== '') throw refused(refusal);
  }

  /** And a root above when there is none configured any more. */
  async #requireUpstream(keyId: string, what: string): Promise<string> {
    const wanted = keyId.toLowerCase();
    const isKnown = async () =>
      (await this.#deps.journal.list()).some(
        ({ role, id, upstreamKeyId }) =>
          wanted !== '' && (role === 'root' ? id === wanted : upstreamKeyId === wanted),
      );
    if (!this.#deps.hasUpstream && !(await isKnown())) throw refused('upstream authority is not configured');
    if (wanted === '') throw invalid(`${what}: no subject key ID provided`);
    return wanted;
  }

  /** Whether this is an authority that is a root and signed SVIDs itself. */
  async isLocal(id: string): Promise<boolean> {
    const record = (await this.#signing()).find((one) => one.id === id);
    return record === undefined ? !this.#deps.hasUpstream : record.upstreamKeyId === '';
  }

  async #upstreamRoot(keyId: string, what: string): Promise<Marked> {
    const { journal, bundles, clock } = this.#deps;
    const records = await journal.list();
    const below = records.filter(({ upstreamKeyId }) => upstreamKeyId === keyId);
    const own = records.find(({ role, id }) => role === 'root' && id === keyId);
    const states = below.map(({ state }) => state);
    // Roots of an earlier topology sign nothing, whatever their last state was.
    if (own !== undefined) states.push(this.#deps.hasOwnRoots ? own.state : 'old');
    if (states.includes('active')) {
      throw invalid(`${what}: unable to use upstream authority singing current authority`);
    }
    if (!states.includes('old')) {
      const why =
        states.length > 0
          ? 'only upstream authorities signing an old authority can be used'
          : "upstream authority didn't sign the old local authority";
      throw invalid(`${what}: ${why}`);
    }
    const root = bundles.own.value.certificates().find(({ subjectKeyId }) => subjectKeyId === keyId);
    if (root === undefined) throw new AppError('not-found', 'no ca found with provided subject key ID');
    return { root, records: [own ?? foreignRoot(root, clock.now()), ...below] };
  }

  async #taint(marked: Marked): Promise<void> {
    const taintedAtMs = this.#deps.clock.now();
    const records = marked.records.map((record) => ({ ...record, taintedAtMs }));
    await this.#mark(records, (bundle) => bundle.withTainted([marked.root.fingerprint]));
    this.#deps.onStep('tainted', 'signing');
    this.#deps.authority.distrust(records.map(({ id }) => id));
    this.#deps.log.warn(
      { authorityIds: records.map(({ id }) => id), subject: marked.root.subjectText },
      'authority tainted: agents replace what it has signed',
    );
  }

  async #revoke(
    { root, records }: Marked,
    { force, what }: { readonly force: boolean; readonly what: string },
  ): Promise<void> {
    const { clock, log, onStep } = this.#deps;
    if (records.some(({ taintedAtMs }) => taintedAtMs === undefined)) {
      throw refused(`${what}: it is not possible to revoke an untainted root CA`);
    }
    if (!force) this.#requireUnused(records, what);
    const revokedAtMs = clock.now();
    const revoked = records.map((record) => ({ ...record, revokedAtMs }));
    await this.#mark(revoked, (bundle) => bundle.withoutAuthorities([root.fingerprint]));
    onStep('revoked', 'signing');
    // Its key has no work left: the rotation's next step retires and destroys it.
    log.warn(
      { subject: root.subjectText, force },
      'authority revoked: nothing it signed is trusted any more',
    );
  }

  #requireUnused(records: readonly AuthorityRecord[], what: string): void {
    const { issued, clock } = this.#deps;
    // Roots above sign no SVIDs.
    const signing = records.filter(({ role }) => role === 'signing');
    const { svids, agents, endByMs, isIncomplete } = issued.inUse(signing, clock.now());
    if (svids === 0 && !isIncomplete) return;
    const counted =
      svids > 0
        ? `${svids} SVIDs of ${agents} agents are still in use`
        : 'SVIDs may be in use that were signed before this server was started';
    throw refused(
      `${what}: ${counted}, the last until ${new Date(endByMs).toISOString()}; wait, or use --force to break their connections`,
    );
  }

  async #mark(records: readonly AuthorityRecord[], change: (bundle: Bundle) => Bundle): Promise<void> {
    const { journal, bundles, trustDomain } = this.#deps;
    const bundle = await journal.mark(records, trustDomain, (current) =>
      change(current ?? bundles.own.value),
    );
    bundles.adopt(bundle);
  }
}

/** A root whose key is somebody else's gets a record of its own, so that its marks outlast the certificates below it. */
function foreignRoot(certificate: Certificate, nowMs: number): AuthorityRecord {
  return {
    id: certificate.subjectKeyId ?? certificate.fingerprint,
    role: 'root',
    keyId: '',
    publicKey: certificate.spki,
    certificate,
    chain: [],
    upstreamKeyId: '',
    state: 'old',
    preparedAtMs: nowMs,
    activatedAtMs: undefined,
    taintedAtMs: undefined,
    revokedAtMs: undefined,
    svidsEndByMs: nowMs,
  };
}

function unsupported({ state }: AuthorityRecord): string {
  return `unsupported local authority status: ${state.toUpperCase()}`;
}

function invalid(message: string): AppError {
  return new AppError('invalid-argument', message);
}

function refused(message: string): AppError {
  return new AppError('failed-precondition', message);
}
