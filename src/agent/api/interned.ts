/** Values by their content: one object for each content, for as long as anybody holds it. */
export class Interned<T extends object> {
  readonly #values = new Map<string, WeakRef<T>>();
  readonly #collected = new FinalizationRegistry<string>((content) => {
    // Another one may have been made since.
    if (this.#values.get(content)?.deref() === undefined) this.#values.delete(content);
  });

  /** The object of this content; `make` makes it when there is none. */
  get(content: string, make: () => T): T {
    const known = this.#values.get(content)?.deref();
    if (known !== undefined) return known;
    const made = make();
    this.#values.set(content, new WeakRef(made));
    this.#collected.register(made, content);
    return made;
  }
}
