/** A way to tell an application that its files have changed. */
export interface Reload {
  /** For logs, such as `signal HUP`; never the arguments of a command, which may be secret. */
  readonly name: string;
  /**
   * Tells it and waits until that is done. Throws `not-found` when there is no process to tell, else another AppError;
   * when `signal` aborts it ends soon.
   */
  run(signal: AbortSignal): Promise<void>;
}
