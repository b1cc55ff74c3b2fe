/** Characters that can move a cursor, break a line or turn the direction of writing. */
export const unprintable = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u;
