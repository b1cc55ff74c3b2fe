import { AppError, errorText } from '../../runtime/error.ts';
import { canonicalSelectors, parseSelector, type Selector, selectorText } from '../../spiffe/selector.ts';
import type { Schema } from './schema.ts';

/**
 * Turns a row into its domain type. A row that does not parse is a damaged database and never skipped: the error
 * (`internal`) names table and id.
 */
export function parseRow<T>(table: keyof Schema, id: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new AppError(
      'internal',
      `row ${JSON.stringify(id)} of table "${table}" is damaged: ${errorText(error)}; restore a backup or delete the row`,
    );
  }
}

/** 0 or 1. */
export function parseFlag(column: string, value: number): boolean {
  if (value !== 0 && value !== 1) throw new Error(`${column} is ${value}; 0 or 1 was expected`);
  return value === 1;
}

/** A flag as it is stored. */
export function flagOf(value: boolean): number {
  return value ? 1 : 0;
}

/** A whole number from 0 up: a count, a duration, a time. */
export function parseCount(column: string, value: number): number {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new Error(`${column} is ${value}; a whole number from 0 up was expected`);
  }
  return value;
}

/** A JSON list of texts. */
export function parseTexts(column: string, json: string): readonly string[] {
  const value = parseJson(column, json);
  if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) {
    throw new Error(`${column} is not a list of texts`);
  }
  return value;
}

/** A JSON list of selectors, which must be in canonical order: duplicates are found by comparing the text. */
export function parseSelectors(column: string, json: string): readonly Selector[] {
  const selectors = parseTexts(column, json).map(parseSelector);
  if (selectorsJson(selectors) !== json) throw new Error(`${column} is not in canonical order`);
  return selectors;
}

/** The one text of a set of selectors. */
export function selectorsJson(selectors: readonly Selector[]): string {
  return JSON.stringify(canonicalSelectors(selectors).map(selectorText));
}

function parseJson(column: string, json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    throw new Error(`${column} is not JSON`);
  }
}
