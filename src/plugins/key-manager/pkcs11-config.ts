import { z } from 'zod';
import { duration } from '../../runtime/config-file.ts';

const path = z.string().regex(/^\//, 'expected an absolute path');

/** Settings of the key manager `pkcs11`. */
export const pkcs11Config = z
  .strictObject({
    module: path.describe(
      'The PKCS#11 module of the HSM, an absolute path such as `/usr/lib/softhsm/libsofthsm2.so`.',
    ),
    tokenLabel: z
      .string()
      .min(1)
      .max(32)
      .optional()
      .describe('Label of the token. Exactly one of `tokenLabel`, `tokenSerial` and `slot` is needed.'),
    tokenSerial: z
      .string()
      .min(1)
      .max(16)
      .optional()
      .describe('Serial number of the token, where labels are not unique.'),
    slot: z
      .int()
      .min(0)
      .optional()
      .describe('ID of the slot; many modules give a token another one after a restart.'),
    pinFile: path.describe(
      'File with the PIN and nothing else, an absolute path; only the server may read it (0600). Some modules want a user in it, as `user:password`.',
    ),
    userType: z
      .union([z.literal('user'), z.int().min(0).max(0xffffffff)])
      .default('user')
      .describe('Who logs in: `user` (CKU_USER), or the number of a kind of user that the vendor has added.'),
    keyLabelPrefix: z
      .string()
      .regex(/^[a-zA-Z0-9._-]{1,40}$/, 'expected 1 to 40 letters, digits, dots, dashes or underscores')
      .optional()
      .describe(
        "What the labels of this server's keys begin with, before a slash. Keys of another prefix are never looked at. Default: the random ID of this server, which is kept in its database.",
      ),
    sessions: z
      .int()
      .min(1)
      .max(64)
      .default(4)
      .describe('Signatures at the same time. The token must allow one session more than that.'),
    signTimeout: duration
      .prefault('10s')
      .refine((ms) => ms >= 100, 'at least 100ms')
      .describe(
        'How long a signature may take, waiting for its turn included. A module that does not answer for half of it is stopped and started again.',
      ),
    queueLimit: z
      .int()
      .min(1)
      .default(1_000)
      .describe('Signatures that may wait for their turn; more are refused at once.'),
  })
  .refine(
    ({ tokenLabel, tokenSerial, slot }) =>
      [tokenLabel, tokenSerial, slot].filter((value) => value !== undefined).length === 1,
    { error: 'expected exactly one of tokenLabel, tokenSerial and slot' },
  );

/** Checked settings of the key manager `pkcs11`. */
export type Pkcs11Config = z.output<typeof pkcs11Config>;
