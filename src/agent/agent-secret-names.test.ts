import { status } from '@grpc/grpc-js';
import { describe, expect, it } from 'vitest';
import { Secret } from '../gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import type { DiscoveryResponse } from '../gen/envoy/service/discovery/v3/discovery.ts';
import { SecretDiscoveryServiceClient } from '../gen/envoy/service/secret/v3/sds.ts';
import { eventually } from '../testing/eventually.ts';
import { Received } from '../testing/received.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { startAgent } from '../testing/running-agent.ts';
import { noAbort } from '../testing/test-server.ts';
import { connectTo } from '../testing/workload-socket.ts';
import { parsePemCertificates } from '../x509/certificate.ts';
import { keyTypeOfSpki } from '../x509/signature.ts';

const selectors = [`unix:uid:${process.getuid?.()}`];
const call = { signal: noAbort };
const typeUrl = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret';

/** A whole agent of a whole server, with a proxy (this process) and two identities for it. */
async function start(sds: Readonly<Record<string, unknown>> = {}) {
  const running = await startAgent({ settings: { sds } });
  const { server, clock, config, health } = running;
  await eventually(async () =>
    expect((await health()).check.get('identity')?.message).toContain('spire/agent'),
  );
  const [agent] = await server.admin.agents.list(call);
  const entries = [
    testEntry({ id: '', spiffeId: 'spiffe://example.org/web', selectors }),
    testEntry({ id: '', spiffeId: 'spiffe://example.org/api', selectors, hint: 'internal' }),
  ];
  for (const entry of entries) {
    await server.admin.entries.create([{ ...entry, parentId: agent!.id }], call);
    await clock.advance(1_000);
  }
  const client = connectTo(SecretDiscoveryServiceClient, `unix:${config.workloadSocket}`);
  const open = (...resourceNames: readonly string[]) => {
    const stream = client.streamSecrets();
    const received = new Received<DiscoveryResponse>(stream);
    const ask = (last?: DiscoveryResponse) =>
      stream.write({
        versionInfo: last?.versionInfo ?? '',
        node: undefined,
        resourceNames: [...resourceNames],
        typeUrl,
        responseNonce: last?.nonce ?? '',
        errorDetail: undefined,
      });
    stream.on('data', ask);
    ask();
    return received;
  };
  /** Rounds follow each other until the answer is there. */
  const answer = async (...names: readonly string[]) => {
    let isDone = false;
    const received = open(...names).take(names.length);
    void received.finally(() => {
      isDone = true;
    });
    await eventually(async () => {
      await clock.advance(1_000);
      expect(isDone).toBe(true);
    });
    return new Map((await received).map((response) => described(response)));
  };
  return { ...running, open, answer };
}

/** What a response holds: of a certificate the identity and the kind of key. */
function described({ resources: [resource] }: DiscoveryResponse): readonly [name: string, content: string] {
  const { name, type } = Secret.decode(resource!.value);
  if (type?.$case !== 'tlsCertificate') return [name, type?.$case ?? 'nothing'];
  const { certificateChain } = type.value;
  const pem = certificateChain?.specifier?.$case === 'inlineBytes' ? certificateChain.specifier.value : '';
  const [leaf] = parsePemCertificates(pem.toString());
  return [name, `${leaf?.uris[0]} ${leaf && keyTypeOfSpki(leaf.spki)}`];
}

describe('an agent', () => {
  it('serves aliases, hints and other kinds of keys, each under the name that was asked for', async () => {
    const { answer } = await start({
      aliases: { 'api-cert': 'spiffe://example.org/api', 'our-roots': 'spiffe://example.org' },
    });
    const web = 'spiffe://example.org/web';
    const api = 'spiffe://example.org/api';
    const expected = new Map([
      ['default', `${web} ec-p256`],
      ['default?key=ec-p256', `${web} ec-p256`],
      ['default?key=ec-p384', `${web} ec-p384`],
      ['api-cert', `${api} ec-p256`],
      ['api-cert?key=rsa-2048', `${api} rsa-2048`],
      [`${api}?key=rsa-2048`, `${api} rsa-2048`],
      ['hint:internal', `${api} ec-p256`],
      ['hint:internal?key=ec-p384', `${api} ec-p384`],
      ['our-roots', 'validationContext'],
    ]);
    expect(await answer(...expected.keys())).toEqual(expected);
  });

  it('ends the stream for a name that is never served, where it is told to do as SPIRE does', async () => {
    const { open, answer } = await start({ unknownNames: 'fail' });
    await answer('default');
    const error = await open('default', 'hint:', '*').ended;
    expect(error).toMatchObject({ code: status.INVALID_ARGUMENT, details: expect.stringContaining('hint:') });
  });
});
