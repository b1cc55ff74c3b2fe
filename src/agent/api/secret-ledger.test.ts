import { expect, test } from 'vitest';
import { FakeSecretSource, fakeTrust } from '../../testing/secret-source.ts';
import type { DeliveryStream } from './delivery-stream.ts';
import type { ProxySecret } from './proxy-secret.ts';
import { SecretLedger } from './secret-ledger.ts';

const stream = {} as DeliveryStream;

/** Asked for and sent. */
function use(secret: ProxySecret): void {
  const resource = fakeTrust('1');
  const encoded = new FakeSecretSource().encode(secret.name, resource);
  secret.askers.subscribe(stream);
  secret.choose({ offer: { secret: encoded, resource, content: encoded.version, salt: 0 } });
  secret.sent(stream, encoded, { nowMs: 0, monotonicMs: 0 });
}

test('names beyond the bound are not taken, and one that was never sent is forgotten when nobody asks for it', () => {
  const forgotten: string[] = [];
  const ledger = new SecretLedger(({ name }) => forgotten.push(name), { names: 2, unused: 2 });
  const [a, b] = [ledger.take('a'), ledger.take('b')];
  expect(ledger.take('a')).toBe(a);
  expect(ledger.take('c')).toBeUndefined();
  ledger.release(b!);
  expect(forgotten).toEqual(['b']);
  expect(ledger.take('c')).toBeDefined();
});

test('of those that were sent the last ones are kept, and those that are asked for', () => {
  const ledger = new SecretLedger(() => undefined, { names: 10, unused: 2 });
  const secrets = ['a', 'b', 'c', 'd', 'e'].map((name) => ledger.take(name)!);
  for (const secret of secrets) use(secret);
  for (const secret of secrets.slice(0, 4)) {
    secret.closed(stream);
    ledger.release(secret);
    if (secret.name === 'b') ledger.take('b')?.askers.subscribe(stream);
  }
  ledger.release(secrets[4]!);
  expect([...ledger.all()].map(({ name }) => name)).toEqual(['b', 'c', 'd', 'e']);
});
