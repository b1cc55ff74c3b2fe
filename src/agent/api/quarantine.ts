/**
 * How often a proxy is given the same content, each time in other bytes, by why it is tried again: for want of anything
 * better; because something else that is new was taken; or because something else came into order that may have been
 * to blame, which is the best of reasons and comes seldom.
 */
export const maxTries = { doubtful: 2, somethingNew: 3, inOrder: 5 };
/** What is remembered of one name; beyond it the content that was dealt with longest ago is forgotten. */
const maxContents = 16;
/** Other bytes for another reason than a refusal; a client could make us do it with each of its streams. */
const maxSalt = 20;

/**
 * What a proxy makes of a content: `sendable`; `refused`; or `retry`, once there is reason to believe that something
 * else was to blame.
 */
export type Verdict = 'sendable' | 'refused' | 'retry';

interface Content {
  /** Of the bytes to send next. It only grows, so that bytes once refused are never sent again. */
  salt: number;
  /** Of the bytes that were refused. */
  readonly refusedSalts: Set<number>;
  verdict: Verdict;
  /** When it was refused last, and whether nothing else could be to blame. */
  refusedAt: number;
  isCulprit: boolean;
}

/**
 * What one proxy has made of the contents of one name. Envoy checks a secret together with all others that it has
 * stored, and acknowledges bytes that it has just refused without using them (envoy-sds.md §1.7): so a refusal may be
 * unjust, and only other bytes with the same meaning show it. A content is known by the version of its plain bytes.
 */
export class Quarantine {
  /** Undefined as long as there is nothing to remember, as of nearly all names. */
  #contents: Map<string, Content> | undefined;

  /** Which bytes of this content to send: see `SdsResources.encode`. */
  saltOf(content: string): number {
    return this.#contents?.get(content)?.salt ?? 0;
  }

  verdictOn(content: string): Verdict {
    return this.#contents?.get(content)?.verdict ?? 'sendable';
  }

  /** True when something is refused, tried again or not. */
  get hasRefusals(): boolean {
    return [...(this.#contents?.values() ?? [])].some(({ verdict }) => verdict !== 'sendable');
  }

  /**
   * The proxy has refused the bytes with this salt. `at` counts events; `isCulprit`: nothing else can be to blame.
   */
  refuse(
    content: string,
    salt: number,
    { at, isCulprit }: { readonly at: number; readonly isCulprit: boolean },
  ): void {
    const known = this.#touch(content);
    known.refusedSalts.add(salt);
    // Others are on their way already, and will have an answer of their own.
    if (salt !== known.salt && known.refusedSalts.size < maxTries.inOrder) return;
    if (salt === known.salt) known.salt += 1;
    known.verdict = 'refused';
    known.refusedAt = at;
    known.isCulprit = isCulprit;
  }

  /** The proxy has acknowledged the bytes with this salt. Returns false when they are not the ones to send any more. */
  accept(content: string, salt: number): boolean {
    if (salt !== this.saltOf(content)) return false;
    const known = this.#contents?.get(content);
    if (known !== undefined) known.verdict = 'sendable';
    return true;
  }

  /** The next time this content is sent in other bytes, because Envoy would not look at the same ones. */
  useOtherBytes(content: string): void {
    const known = this.#touch(content);
    if (known.verdict === 'sendable' && known.salt < maxSalt) known.salt += 1;
  }

  /**
   * Something else that was not in order since `since` has come into order: it may have been to blame. Returns whether
   * a verdict is another one now.
   */
  absolveSince(since: number): boolean {
    return this.#absolve(maxTries.inOrder, ({ refusedAt }) => refusedAt >= since);
  }

  /**
   * The proxy has taken something else that is new. Even where nothing else seemed to blame it may have been: Envoy
   * acknowledges a secret unseen until it has all that belong together. Returns whether a verdict is another one now.
   */
  absolveForSomethingNew(): boolean {
    return this.#absolve(maxTries.somethingNew, () => true);
  }

  /** How often a content was tried that may be tried again for want of anything better; else undefined. */
  doubtfulTries(content: string): number | undefined {
    const known = this.#contents?.get(content);
    if (known?.verdict !== 'refused' || known.isCulprit) return undefined;
    return known.refusedSalts.size < maxTries.doubtful ? known.refusedSalts.size : undefined;
  }

  /** Nothing else can come into order. */
  absolveDoubtful(content: string): void {
    const known = this.#contents?.get(content);
    if (known !== undefined && isForRetry(known, maxTries.doubtful)) known.verdict = 'retry';
  }

  #absolve(most: number, isMeant: (content: Content) => boolean): boolean {
    const contents = [...(this.#contents?.values() ?? [])];
    const absolved = contents.filter((content) => isForRetry(content, most) && isMeant(content));
    for (const content of absolved) content.verdict = 'retry';
    return absolved.length > 0;
  }

  #touch(content: string): Content {
    const fresh: Content = {
      salt: 0,
      refusedSalts: new Set(),
      verdict: 'sendable',
      refusedAt: 0,
      isCulprit: false,
    };
    this.#contents ??= new Map();
    const known = this.#contents.get(content) ?? fresh;
    this.#contents.delete(content);
    this.#contents.set(content, known);
    const [oldest] = this.#contents.keys();
    if (this.#contents.size > maxContents && oldest !== undefined) this.#contents.delete(oldest);
    return known;
  }
}

function isForRetry({ verdict, refusedSalts }: Content, most: number): boolean {
  return verdict === 'refused' && refusedSalts.size < most;
}
