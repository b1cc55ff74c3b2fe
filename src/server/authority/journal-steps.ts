import type { AuthorityRole } from '../../plugin-api/data-store.ts';

/**
 * The moments between which a server that is killed must find its way: each is over when it is named, and what it did
 * is durable.
 */
export const journalSteps = [
  'key-retired',
  'key-destroyed',
  'key-claimed',
  'key-generated',
  'certified',
  'prepared',
  'published',
  'activated',
  'signing',
  'tainted',
  'revoked',
  'forgotten',
] as const;

/** One of them. */
export type JournalStep = (typeof journalSteps)[number];

/** Told of each step when it is over, and before anything else is done. It must not throw. */
export type StepObserver = (step: JournalStep, role: AuthorityRole) => void;
