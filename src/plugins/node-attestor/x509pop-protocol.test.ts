import { createPublicKey, hash, type KeyObject, randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { openssl } from '../../testing/openssl.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { integer, sequence } from '../../x509/der-writer.ts';
import { generatePrivateKey, type KeyType } from '../../x509/signature.ts';
import { encodePayload, newChallenge, parsePayload, respond, verifyResponse } from './x509pop-protocol.ts';

const types = ['ec-p256', 'ec-p384', 'rsa-2048', 'rsa-3072'] as const satisfies KeyType[];
const keys = new Map<KeyType, KeyObject>(
  await Promise.all(types.map(async (type) => [type, await generatePrivateKey(type)] as const)),
);
const keyOf = (type: KeyType) => keys.get(type)!;
const spkiOf = (type: KeyType) => createPublicKey(keyOf(type)).export({ format: 'der', type: 'spki' });
const json = (message: Uint8Array) => JSON.parse(Buffer.from(message).toString());
const toMessage = (value: unknown) => Buffer.from(JSON.stringify(value));
const malformed = (text: string) =>
  expect.objectContaining({ code: 'invalid-argument', message: expect.stringContaining(text) });
const unproved = (text: string) =>
  expect.objectContaining({
    code: 'permission-denied',
    message: `challenge response verification failed: ${text}`,
  });
const member = (type: KeyType) => (type.startsWith('ec') ? 'ecdsa_signature' : 'rsa_signature');
const other = (type: KeyType) => (type.startsWith('ec') ? 'rsa_signature' : 'ecdsa_signature');

describe('a payload', () => {
  it('is what SPIRE sends', () => {
    expect(encodePayload([Buffer.of(1, 2), Buffer.of(255)]).toString()).toBe(
      '{"certificates":["AQI=","/w=="]}',
    );
  });

  it('is read as Go reads it', () => {
    const one = [Buffer.of(1, 2)];
    expect(parsePayload(Buffer.from('{"certificates":["AQI="],"more":{}}'))).toEqual(one);
    expect(parsePayload(Buffer.from('{"Certificates":["AQI="]}'))).toEqual(one);
    for (const none of ['{}', '{"certificates":null}', '{"certificates":[]}'])
      expect(parsePayload(Buffer.from(none))).toEqual([]);
  });

  it.each([
    { text: '', says: 'missing attestation payload' },
    { text: 'payload', says: 'failed to unmarshal data: must be JSON' },
    { text: '[]', says: 'failed to unmarshal data: expected a JSON object' },
    { text: '{"certificates":"AQI="}', says: 'expected a list' },
    { text: '{"certificates":{}}', says: 'expected a list' },
    { text: '{"certificates":[1]}', says: '"certificates"[0]: expected base64' },
    { text: '{"certificates":["AQI"]}', says: 'expected base64' },
    { text: '{"certificates":["AQI="],"certificates":[]}', says: 'occurs twice' },
    { text: '{"certificates":["AQI="],"CERTIFICATES":[]}', says: 'occurs twice' },
    { text: `{"certificates":[${Array(9).fill('"AQI="').join()}]}`, says: 'at most 8 certificates, got 9' },
    { text: `{"x":"${'a'.repeat(64 * 1024)}"}`, says: 'at most 65536 bytes' },
    { text: '['.repeat(60_000), says: 'must be JSON' },
  ])('cannot be $text', ({ text, says }) => {
    expect(() => parsePayload(Buffer.from(text))).toThrow(malformed(says));
  });

  it('comes back as it was written, and anything else is an error', () => {
    const der = fc.uint8Array({ minLength: 1, maxLength: 50 });
    fc.assert(
      fc.property(fc.array(der, { maxLength: 8 }), (list) => {
        expect(parsePayload(encodePayload(list))).toEqual(list.map((bytes) => Buffer.from(bytes)));
      }),
    );
    const hostile = fc.oneof(
      fc.uint8Array({ maxLength: 100 }),
      fc.json().map((text) => Buffer.from(text)),
      fc.jsonValue().map((certificates) => toMessage({ certificates })),
    );
    fc.assert(
      fc.property(hostile, (bytes) => {
        try {
          expect(Array.isArray(parsePayload(bytes))).toBe(true);
        } catch (error) {
          expect(error).toMatchObject({ code: 'invalid-argument' });
        }
      }),
    );
  });
});

describe.each(types)('the proof with a key of type %s', (type) => {
  const verify = (response: Uint8Array, nonce: Uint8Array) =>
    verifyResponse(response, { spki: spkiOf(type), type, nonce });

  it('has the form of SPIRE and holds', async () => {
    const { message, nonce } = newChallenge(type);
    expect(json(message)).toEqual({
      [member(type)]: { nonce: nonce.toString('base64') },
      [other(type)]: null,
    });
    expect(nonce).toHaveLength(32);
    const response = await respond(message, keyOf(type));
    expect(json(response)[other(type)]).toBeNull();
    const parts = type.startsWith('ec') ? ['nonce', 'r', 's'] : ['nonce', 'signature'];
    expect(Object.keys(json(response)[member(type)])).toEqual(parts);
    verify(response, nonce);
  });

  it('holds for one nonce only, and each nonce is new', async () => {
    const first = newChallenge(type);
    const second = newChallenge(type);
    expect(first.nonce).not.toEqual(second.nonce);
    const response = await respond(first.message, keyOf(type));
    expect(await respond(first.message, keyOf(type))).not.toEqual(response);
    expect(() => verify(response, second.nonce)).toThrow(
      unproved(`${member(type).split('_')[0]?.toUpperCase()} signature verify failed`),
    );
  });

  it('does not hold with another nonce, signature or key', async () => {
    const { message, nonce } = newChallenge(type);
    const response = json(await respond(message, keyOf(type)));
    const stranger = await generatePrivateKey(type === 'rsa-3072' ? 'rsa-2048' : type);
    expect(() => verify(toMessage(response), nonce)).not.toThrow();
    const answers = [
      { ...response[member(type)], nonce: randomBytes(32).toString('base64') },
      ...Object.keys(response[member(type)])
        .filter((name) => name !== 'nonce')
        .flatMap((name) => {
          const good = Buffer.from(response[member(type)][name], 'base64');
          const wrong = Buffer.from(good.map((byte, i) => (i === 5 ? byte ^ 1 : byte)));
          const forms = [
            wrong,
            Buffer.alloc(0),
            good.subarray(1),
            Buffer.concat([good, Buffer.of(1)]),
            Buffer.alloc(good.length),
          ];
          return forms.map((bytes) => ({ ...response[member(type)], [name]: bytes.toString('base64') }));
        }),
    ];
    for (const answer of answers) {
      expect(() => verify(toMessage({ [member(type)]: answer }), nonce), JSON.stringify(answer)).toThrow(
        expect.objectContaining({ code: 'permission-denied' }),
      );
    }
    const theirs = await respond(message, stranger);
    expect(() => verify(theirs, nonce)).toThrow(expect.objectContaining({ code: 'permission-denied' }));
  });

  it('needs nonces of 32 bytes on both sides', async () => {
    const { message, nonce } = newChallenge(type);
    const body = json(await respond(message, keyOf(type)))[member(type)];
    for (const size of [0, 31, 33]) {
      const wrong = randomBytes(size).toString('base64');
      const response = toMessage({ [member(type)]: { ...body, nonce: wrong } });
      expect(() => verify(response, nonce)).toThrow(unproved('invalid response nonce'));
      const challenge = toMessage({ [member(type)]: { nonce: wrong } });
      await expect(respond(challenge, keyOf(type))).rejects.toThrow(malformed('invalid challenge nonce'));
    }
  });

  it('is not taken from another algorithm', async () => {
    const { message, nonce } = newChallenge(type);
    const body = json(await respond(message, keyOf(type)))[member(type)];
    const wants = type.startsWith('ec') ? 'ECDSA' : 'RSA';
    for (const response of [{}, { [other(type)]: body }, { [member(type)]: null }]) {
      expect(() => verify(toMessage(response), nonce)).toThrow(unproved(`expecting ${wants} response`));
    }
    const otherType = type.startsWith('ec') ? 'rsa-2048' : 'ec-p256';
    await expect(respond(newChallenge(otherType).message, keyOf(type))).rejects.toThrow(
      malformed(`unable to unmarshal challenge: expecting ${wants} challenge`),
    );
    const foreign = await respond(newChallenge(otherType).message, keyOf(otherType));
    expect(() => verify(foreign, nonce)).toThrow(unproved(`expecting ${wants} response`));
  });

  it('is a signature over SHA-256 of both nonces, as OpenSSL makes and checks it', async () => {
    const directory = tempDir();
    const file = (name: string, data: Uint8Array | string) => {
      writeFileSync(join(directory, name), data);
      return join(directory, name);
    };
    const key = file('key.pem', keyOf(type).export({ type: 'pkcs8', format: 'pem' }));
    const options = ['-pkeyopt', 'digest:sha256', '-inkey', key];
    if (type.startsWith('rsa'))
      options.push('-pkeyopt', 'rsa_padding_mode:pss', '-pkeyopt', 'rsa_pss_saltlen:max');
    const { message, nonce } = newChallenge(type);
    const body = json(await respond(message, keyOf(type)))[member(type)];
    const from = (name: string) => Buffer.from(body[name], 'base64');
    const ours = type.startsWith('ec') ? sequence(integer(from('r')), integer(from('s'))) : from('signature');
    const digest = hash('sha256', Buffer.concat([nonce, from('nonce')]), 'buffer');
    const input = ['-in', file('digest', digest)];
    if (type.startsWith('rsa')) options[options.length - 1] = 'rsa_pss_saltlen:auto';
    openssl(['pkeyutl', '-verify', ...options, ...input, '-sigfile', file('signature', ours)]);
  });
});

it('is given to no challenge of another form', async () => {
  const body = fc.oneof(fc.jsonValue(), fc.record({ nonce: fc.oneof(fc.base64String(), fc.jsonValue()) }));
  const anything = fc.oneof(
    fc.uint8Array({ maxLength: 100 }),
    body.map((value) => toMessage({ ecdsa_signature: value })),
    body.map(toMessage),
  );
  const attempt = (bytes: Uint8Array) => respond(bytes, keyOf('ec-p256')).catch((error: unknown) => error);
  await fc.assert(
    fc.asyncProperty(anything, async (bytes) => {
      expect(await attempt(bytes)).toMatchObject({ code: 'invalid-argument' });
    }),
  );
});

describe('a response', () => {
  const { nonce } = newChallenge('ec-p256');
  const verify = (response: Uint8Array) =>
    verifyResponse(response, { spki: spkiOf('ec-p256'), type: 'ec-p256', nonce });

  it.each([
    { text: '', says: 'must be JSON' },
    { text: '{"ecdsa_signature":[]}', says: '"ecdsa_signature": expected an object' },
    { text: '{"ecdsa_signature":{"nonce":1}}', says: '"nonce": expected base64' },
    { text: '{"ecdsa_signature":{"nonce":"","r":"-1","s":""}}', says: '"r": expected base64' },
    { text: `{"x":"${'a'.repeat(9000)}"}`, says: 'expected at most 8192 bytes' },
  ])('cannot be $text', ({ text, says }) => {
    expect(() => verify(Buffer.from(text))).toThrow(
      malformed(`unable to unmarshal challenge response: ${says}`),
    );
  });

  it('proves nothing for a key that is no point of its curve', async () => {
    const challenge = newChallenge('ec-p256');
    const response = await respond(challenge.message, keyOf('ec-p256'));
    const spki = spkiOf('ec-p256');
    spki.fill(1, spki.length - 32);
    expect(() => verifyResponse(response, { spki, type: 'ec-p256', nonce: challenge.nonce })).toThrow(
      unproved('ECDSA signature verify failed'),
    );
  });

  it('may have r and s at full width, or with a sign byte', async () => {
    const challenge = newChallenge('ec-p256');
    const { ecdsa_signature: body } = json(await respond(challenge.message, keyOf('ec-p256')));
    const padded = (text: string) => {
      const bytes = Buffer.from(text, 'base64');
      return Buffer.concat([Buffer.alloc(33 - bytes.length), bytes]).toString('base64');
    };
    const response = toMessage({ ecdsa_signature: { ...body, r: padded(body.r), s: padded(body.s) } });
    verifyResponse(response, { spki: spkiOf('ec-p256'), type: 'ec-p256', nonce: challenge.nonce });
  });

  it('has r and s without leading zeros, whatever their length', async () => {
    const challenge = newChallenge('ec-p256');
    const shortOnes = [];
    for (let i = 0; i < 600 && shortOnes.length === 0; i += 1) {
      const response = await respond(challenge.message, keyOf('ec-p256'));
      const { r, s } = json(response).ecdsa_signature;
      const bytes = [r, s].map((text: string) => Buffer.from(text, 'base64'));
      for (const number of bytes) expect(number[0]).not.toBe(0);
      if (bytes.some((number) => number.length < 32)) shortOnes.push(response);
    }
    for (const response of shortOnes)
      verifyResponse(response, { spki: spkiOf('ec-p256'), type: 'ec-p256', nonce: challenge.nonce });
  });

  it('of any other form is an error', () => {
    const anything = fc.oneof(
      fc.json(),
      fc
        .record({ nonce: fc.base64String(), r: fc.base64String(), s: fc.base64String() })
        .map((body) => JSON.stringify({ ecdsa_signature: body })),
    );
    fc.assert(
      fc.property(anything, (text) => {
        expect(() => verify(Buffer.from(text))).toThrow(
          expect.objectContaining({ code: expect.stringMatching(/^(invalid-argument|permission-denied)$/) }),
        );
      }),
    );
  });
});
