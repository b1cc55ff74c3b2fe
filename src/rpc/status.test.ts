import { status as grpcStatus, Metadata } from '@grpc/grpc-js';
import { describe, expect, it } from 'vitest';
import { AppError, type ErrorCode } from '../runtime/error.ts';
import { callUnary, unixChannel } from './grpc-client.ts';
import { fromItemStatus, fromServiceError, itemStatus, toServiceError } from './status.ts';

const codes: readonly ErrorCode[] = [
  'invalid-argument',
  'unauthenticated',
  'permission-denied',
  'not-found',
  'already-exists',
  'failed-precondition',
  'resource-exhausted',
  'aborted',
  'unavailable',
  'deadline-exceeded',
  'cancelled',
  'unimplemented',
];

describe('an error on its way through gRPC', () => {
  it.each(codes)('keeps its code and text: %s', (code) => {
    const error = fromServiceError(toServiceError(new AppError(code, 'what came, where')));
    expect(error).toMatchObject({ code, message: 'what came, where', reason: undefined });
  });

  it.each(['AGENT_EXPIRED', 'AGENT_NOT_ATTESTED', 'AGENT_NOT_ACTIVE', 'AGENT_BANNED', 'AGENT_MUST_REATTEST'])(
    'keeps the reason %s, as SPIRE writes it',
    (reason) => {
      const error = fromServiceError(toServiceError(new AppError('permission-denied', 'no', { reason })));
      expect(error).toMatchObject({ code: 'permission-denied', reason });
    },
  );

  it.each([
    { retryAfterMs: 0, expected: 0 },
    { retryAfterMs: 1.2, expected: 2 },
    { retryAfterMs: 61_234, expected: 61_234 },
    { retryAfterMs: 86_400_000, expected: 600_000 },
  ])('says when to try again: $retryAfterMs ms', ({ retryAfterMs, expected }) => {
    const sent = toServiceError(new AppError('resource-exhausted', 'too many', { retryAfterMs }));
    expect(fromServiceError(sent)).toMatchObject({ code: 'resource-exhausted', retryAfterMs: expected });
  });

  it('carries reason and time together', () => {
    const options = { reason: 'AGENT_EXPIRED', retryAfterMs: 5 };
    const sent = toServiceError(new AppError('permission-denied', 'no', options));
    expect(fromServiceError(sent)).toMatchObject(options);
  });

  it('leaves out reasons that only we know', () => {
    const sent = toServiceError(new AppError('unauthenticated', 'no', { reason: 'NO_BUNDLE' }));
    expect(sent.metadata.getMap()).toEqual({});
    expect(toServiceError(new AppError('internal', 'x', { reason: 'toString' })).metadata.getMap()).toEqual(
      {},
    );
  });

  it.each<{ name: string; error: unknown }>([
    { name: 'an internal AppError', error: new AppError('internal', 'secret') },
    { name: 'a foreign error', error: new Error('secret') },
    { name: 'something that is no error', error: 'secret' },
    { name: 'an object that looks like a status', error: { code: 7, details: 'secret' } },
  ])('hides the text of $name', ({ error }) => {
    expect(toServiceError(error)).toMatchObject({ code: grpcStatus.INTERNAL, details: 'internal error' });
  });

  it('is cut to a size that fits into headers, without broken characters', () => {
    const { details } = toServiceError(new AppError('invalid-argument', `\udc00${'😀'.repeat(5_000)}`));
    expect(details.length).toBeLessThanOrEqual(1_024);
    expect(() => encodeURI(details)).not.toThrow();
  });
});

describe('an error from another implementation', () => {
  it.each([
    { code: grpcStatus.UNKNOWN, expected: 'internal' },
    { code: grpcStatus.OUT_OF_RANGE, expected: 'invalid-argument' },
    { code: grpcStatus.DATA_LOSS, expected: 'internal' },
    { code: 99, expected: 'internal' },
  ])('with code $code is $expected', ({ code, expected }) => {
    expect(fromServiceError({ code, details: 'x', metadata: new Metadata() })).toMatchObject({
      code: expected,
    });
  });

  it('cannot play with a terminal', () => {
    const { message } = fromServiceError({ code: 5, details: 'a\u001b[2J\r\nb', metadata: new Metadata() });
    expect(message).toBe('a [2J b');
  });

  it('says why no connection came about, without the words of the library', async () => {
    const channel = unixChannel('/nonexistent/signet.sock');
    const bytes = (value: Buffer) => value;
    const method = { path: '/signet.Test/Call', requestSerialize: bytes, responseDeserialize: bytes };
    await expect(callUnary(channel, method, Buffer.alloc(0))).rejects.toMatchObject({
      code: 'unavailable',
      message:
        'cannot connect: connect ENOENT /nonexistent/signet.sock; nobody listens there: start it, or name another address',
    });
    channel.close();
  });

  it.each([
    {
      details:
        'No connection established. Last error: Error: connect ECONNREFUSED 127.0.0.1:1. Resolution note: ',
      message:
        'cannot connect: connect ECONNREFUSED 127.0.0.1:1; nobody listens there: start it, or name another address',
    },
    {
      details:
        'No connection established. Last error: read ECONNRESET (2026-01-02T03:04:05.678Z). Resolution note: ',
      message: 'cannot connect: read ECONNRESET',
    },
    {
      details:
        'No connection established. Last error: AppError: the server presented no certificate. Resolution note: ',
      message: 'cannot connect: the server presented no certificate',
    },
    { details: 'Deadline exceeded after 0.051s,LB pick: 0.002s,remote_addr=x', message: 'no answer in time' },
  ])('has the same text whenever the same happens: $message', ({ details, message }) => {
    expect(fromServiceError({ code: 14, details, metadata: new Metadata() }).message).toBe(message);
  });

  it.each([
    { name: 'no protobuf', bytes: Buffer.from('ffffff', 'hex') },
    { name: 'another detail', bytes: Buffer.from('1a040a02782f', 'hex') },
    { name: 'nothing', bytes: Buffer.alloc(0) },
  ])('with details that hold $name still has its code', ({ bytes }) => {
    const metadata = new Metadata();
    metadata.set('grpc-status-details-bin', bytes);
    expect(fromServiceError({ code: 7, details: 'no', metadata })).toMatchObject({
      code: 'permission-denied',
      reason: undefined,
    });
  });

  it('that is no gRPC error at all is internal, with its cause', () => {
    const cause = new TypeError('x');
    expect(fromServiceError(cause)).toMatchObject({ code: 'internal', cause });
  });
});

describe('the status of an item', () => {
  it('is OK without an error, and nothing is made of that', () => {
    expect(itemStatus()).toEqual({ code: 0, message: '' });
    expect(fromItemStatus(itemStatus())).toBeUndefined();
  });

  it('keeps code and text, and hides internals', () => {
    const error = fromItemStatus(itemStatus(new AppError('not-found', 'entry not found')));
    expect(error).toMatchObject({ code: 'not-found', message: 'entry not found' });
    expect(itemStatus(new Error('secret'))).toEqual({ code: grpcStatus.INTERNAL, message: 'internal error' });
  });

  it('must be there', () => {
    expect(fromItemStatus(undefined)).toMatchObject({ code: 'internal' });
  });
});
