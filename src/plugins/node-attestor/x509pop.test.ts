import { chmodSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createLogger } from '../../runtime/log.ts';
import { selectorText } from '../../spiffe/selector.ts';
import { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { type TestCertificateFields, TestIdentity, testStartMs } from '../../testing/certificates.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { openssl } from '../../testing/openssl.ts';
import { type TestListFields, testRevocationList } from '../../testing/revocation-lists.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { openTestStore } from '../../testing/test-store.ts';
import { type Certificate, parsePemCertificates } from '../../x509/certificate.ts';
import { encodePem } from '../../x509/pem.ts';
import { X509popAgentAttestor, X509popServerAttestor } from './x509pop.ts';
import { x509popAgentConfig, x509popServerConfig } from './x509pop-config.ts';
import { encodePayload, respond } from './x509pop-protocol.ts';

const trustDomain = TrustDomain.parse('example.org');
const root = await TestIdentity.root('nodes', { uris: [] });
const intermediate = await root.intermediate({ uris: [], pathLength: 0 });
/** Another authority that calls itself the same. */
const outsider = await TestIdentity.root('nodes', { uris: [] });
const node = await root.issue('', { uris: [], commonName: 'node-1' });

/** As `sha1sum` of the DER says. */
const sha1 = ({ der }: Certificate) => openssl(['dgst', '-sha1', '-r'], der).toString().split(' ')[0] ?? '';

const issue = (fields: TestCertificateFields = {}) =>
  root.issue('', { uris: [], commonName: 'node-1', ...fields });

/** Another file of this name: in place, a change within one tick of the clock could not be told by times and size. */
function replace(path: string, text: string): void {
  writeFileSync(`${path}.new`, text, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** A server half that trusts `root`, its files in a directory of the test. */
async function startServerHalf(settings: Readonly<Record<string, unknown>> = {}) {
  const directory = tempDir();
  const caFile = join(directory, 'ca.pem');
  writeFileSync(caFile, root.certificate.toPem());
  const clock = new FakeClock(testStartMs + 3_600_000);
  const lines: string[] = [];
  const log = createLogger({ level: 'info', format: 'json', write: (line) => void lines.push(line) });
  const { tokens } = await openTestStore({ clock });
  const config = x509popServerConfig.parse({ ...('caFiles' in settings ? {} : { caFile }), ...settings });
  const attestor = await X509popServerAttestor.open(config, {
    trustDomain,
    dataDir: directory,
    clock,
    log,
    tokens,
  });
  const attest = (
    holder: TestIdentity,
    {
      chain = [holder.certificate],
      answer = (challenge: Uint8Array) => respond(challenge, holder.key) as Promise<Uint8Array>,
    } = {},
  ) => attestor.verify(encodePayload(chain.map(({ der }) => der)), { ask: answer });
  return { attest, attestor, clock, lines, caFile, directory };
}

const refused = (text: string | RegExp, code = 'permission-denied') => ({
  code,
  message: expect.stringMatching(
    text instanceof RegExp ? text : new RegExp(`^nodeattestor\\(x509pop\\): ${text}`),
  ),
});
const noQuestion = () => Promise.reject(new Error('nothing should be asked'));

describe('the server half', () => {
  it.each(['ec-p256', 'ec-p384', 'rsa-2048'] as const)('admits a node with an %s key', async (keyType) => {
    const { attest } = await startServerHalf();
    const holder = await issue({ keyType });
    const fingerprint = sha1(holder.certificate);
    const { agentPath, selectors, canReattest } = await attest(holder);
    expect(agentPath).toBe(`/spire/agent/x509pop/${fingerprint}`);
    expect(canReattest).toBe(true);
    expect(selectors.map(selectorText)).toEqual([
      'x509pop:subject:cn:node-1',
      `x509pop:ca:fingerprint:${sha1(root.certificate)}`,
      `x509pop:serialnumber:${holder.certificate.serialHex}`,
    ]);
  });

  it('gives selectors for each authority and each of its own names', async () => {
    const { attest } = await startServerHalf();
    const uris = [
      'x509pop://example.org/datacenter/us%2Deast/1',
      'x509pop://example.org/rack/7?x=1',
      'x509pop://example.org///floor//2//',
      'x509pop://example.org/alone',
      'x509pop://example.org/////',
      'x509pop://example.org/bad/%ff',
      'x509pop://other.org/datacenter/eu',
      'spiffe://example.org/datacenter/eu',
    ];
    const holder = await intermediate.issue('', { uris });
    const { selectors } = await attest(holder, { chain: [holder.certificate, intermediate.certificate] });
    expect(selectors.map(selectorText)).toEqual([
      `x509pop:ca:fingerprint:${sha1(intermediate.certificate)}`,
      `x509pop:ca:fingerprint:${sha1(root.certificate)}`,
      `x509pop:serialnumber:${holder.certificate.serialHex}`,
      'x509pop:san:datacenter:us-east/1',
      'x509pop:san:rack:7',
      'x509pop:san:floor:/2',
    ]);
  });

  it('refuses a subject that two readers could read differently', async () => {
    const { attest } = await startServerHalf();
    const commonName = ['node-1', 'node-2'];
    await expect(attest(await issue({ commonName }))).rejects.toMatchObject(refused('.*2 common names'));
    await expect(attest(await issue({ commonName: 'a\nb' }))).rejects.toMatchObject(
      refused('commonName: not plain text', 'invalid-argument'),
    );
  });

  it('admits the same node again and again', async () => {
    const { attest } = await startServerHalf();
    expect(await attest(node)).toEqual(await attest(node));
  });

  it('makes the path of a template', async () => {
    const agentPathTemplate = '/{{ .PluginName }}/{{ .URISanSelectors.rack }}/{{ .Subject.CommonName }}';
    const { attest } = await startServerHalf({ agentPathTemplate });
    const inRack = (rack: string, commonName: string) =>
      issue({ commonName, uris: [`x509pop://example.org/rack/${rack}`] });
    expect(await attest(await inRack('7', 'web-1'))).toMatchObject({
      agentPath: '/spire/agent/x509pop/7/web-1',
    });
    for (const [rack, name] of [
      ['7', '../../server'],
      ['7', 'a/b'],
      ['7/8', 'web-1'],
      ['7', '..'],
      ['7', 'größe'],
    ] as const) {
      await expect(attest(await inRack(rack, name))).rejects.toMatchObject(
        refused('failed to make spiffe id: '),
      );
    }
    await expect(attest(node)).rejects.toMatchObject(
      refused('.*the certificate has no URISanSelectors.rack'),
    );
  });

  it('lets no name of the certificate stand in for another variable', async () => {
    const { attest } = await startServerHalf({ agentPathTemplate: '/x/{{ .Subject.CommonName }}' });
    const holder = await root.issue('', { uris: ['x509pop://example.org/Subject.CommonName/admin'] });
    await expect(attest(holder)).rejects.toMatchObject(refused('.*has no Subject.CommonName'));
  });
});

describe('the server half refuses without asking', () => {
  const verification = 'certificate verification failed: ';
  const cases: readonly {
    name: string;
    chain: () => Promise<readonly TestIdentity[]>;
    says: string;
    code?: string;
  }[] = [
    {
      name: 'a certificate of another authority of the same name',
      chain: async () => [await outsider.issue('', { uris: [], commonName: 'node-1' })],
      says: `${verification}(no trusted|.*no valid signature)`,
    },
    {
      name: 'a certificate of another authority that comes along',
      chain: async () => [await outsider.issue('', { uris: [], commonName: 'node-1' }), outsider],
      says: verification,
    },
    {
      name: 'one that has expired',
      chain: async () => [await issue({ notAfterMs: testStartMs + 1000 })],
      says: `${verification}.*expired at`,
    },
    {
      name: 'one that is not valid yet',
      chain: async () => [await issue({ notBeforeMs: testStartMs + 7_200_000 })],
      says: `${verification}.*not valid before`,
    },
    {
      name: 'one that is not for signatures',
      chain: async () => [await issue({ keyUsage: ['keyEncipherment'] })],
      says: 'unable to generate challenge: certificate not intended for digital signature use',
    },
    {
      name: 'one that does not say what it is for',
      chain: async () => [await issue({ keyUsage: null })],
      says: 'unable to generate challenge: certificate not intended',
    },
    {
      name: 'an authority, though it may sign',
      chain: async () => [
        await root.intermediate({ uris: [], keyUsage: ['keyCertSign', 'digitalSignature'] }),
      ],
      says: `${verification}the first certificate is an authority`,
    },
    {
      name: 'one that a node has signed',
      chain: async () => [await node.issue('', { uris: [], commonName: 'node-2' }), node],
      says: `${verification}.*not a certificate authority`,
    },
    {
      name: 'one below an intermediate that is left out',
      chain: async () => [await intermediate.issue('', { uris: [] })],
      says: `${verification}no trusted authority`,
    },
    {
      name: 'one below more intermediates than an authority allows',
      chain: async () => {
        const lower = await intermediate.intermediate({ uris: [], commonName: 'lower' });
        return [await lower.issue('', { uris: [] }), lower, intermediate];
      },
      says: `${verification}.*allows 0 intermediates`,
    },
    {
      name: 'one whose intermediates go round in circles',
      chain: async () => {
        const a = await TestIdentity.root('a', { uris: [], commonName: 'a' });
        const b = await a.intermediate({ uris: [], commonName: 'b' });
        const a2 = await b.intermediate({ uris: [], commonName: 'a', key: a.key });
        return [await a.issue('', { uris: [] }), a2, b, a, a2, b];
      },
      says: verification,
    },
    {
      name: 'more than eight certificates',
      chain: async () => Array(9).fill(node),
      says: 'failed to unmarshal data: expected at most 8 certificates, got 9',
      code: 'invalid-argument',
    },
  ];
  it.each(cases)('$name', async ({ chain, says, code }) => {
    const { attestor } = await startServerHalf();
    const payload = encodePayload((await chain()).map(({ certificate }) => certificate.der));
    await expect(attestor.verify(payload, { ask: noQuestion })).rejects.toMatchObject(refused(says, code));
  });

  it.each([
    { name: 'nothing', payload: '', says: 'missing attestation payload' },
    { name: 'no JSON', payload: 'payload', says: 'failed to unmarshal data' },
    { name: 'no certificate', payload: '{}', says: 'no certificate to attest' },
    {
      name: 'a damaged certificate',
      payload: '{"certificates":["AQI="]}',
      says: 'unable to parse leaf certificate: ',
    },
    {
      name: 'a damaged intermediate',
      payload: `{"certificates":["${node.certificate.der.toString('base64')}",""]}`,
      says: 'unable to parse intermediate certificate 0: ',
    },
    {
      name: 'far too much',
      payload: ' '.repeat(65_537),
      says: 'failed to unmarshal data: expected at most 65536',
    },
  ])('$name', async ({ payload, says }) => {
    const { attestor } = await startServerHalf();
    const answer = attestor.verify(Buffer.from(payload), { ask: noQuestion });
    await expect(answer).rejects.toMatchObject(refused(says, 'invalid-argument'));
  });

  it.each([
    { kind: 'Ed25519', args: ['ed25519'] },
    { kind: 'RSA-1024', args: ['rsa:1024'] },
    { kind: 'EC P-521', args: ['ec', '-pkeyopt', 'ec_paramgen_curve:P-521'] },
  ])('a key of kind $kind', async ({ kind, args }) => {
    const { attestor, directory } = await startServerHalf();
    const file = (name: string) => join(directory, name);
    const names = [
      '-subj',
      '/CN=x',
      '-addext',
      'keyUsage=digitalSignature',
      '-addext',
      'basicConstraints=CA:FALSE',
    ];
    openssl([
      'req',
      '-x509',
      '-nodes',
      '-newkey',
      ...args,
      '-keyout',
      file('k'),
      '-out',
      file('c'),
      ...names,
    ]);
    const pem = openssl(['x509', '-in', file('c')]).toString();
    const payload = encodePayload(parsePemCertificates(pem).map(({ der }) => der));
    const answer = attestor.verify(payload, { ask: noQuestion });
    await expect(answer).rejects.toMatchObject(
      refused(`unable to generate challenge: unsupported public key type "${kind}"`),
    );
  });
});

describe('the proof', () => {
  it('must be made with the key of the certificate', async () => {
    const { attest } = await startServerHalf();
    const thief = await issue();
    const answer = (challenge: Uint8Array) => respond(challenge, thief.key);
    const stolen = attest(node, { answer });
    await expect(stolen).rejects.toMatchObject(
      refused('challenge response verification failed: ECDSA signature verify failed'),
    );
  });

  it('cannot be used twice, nor for another node', async () => {
    const { attest } = await startServerHalf();
    const heard: Uint8Array[] = [];
    const asked: Uint8Array[] = [];
    const listen = async (challenge: Uint8Array) => {
      asked.push(challenge);
      heard.push(await respond(challenge, node.key));
      return heard[0]!;
    };
    await attest(node, { answer: listen });
    await expect(attest(node, { answer: listen })).rejects.toMatchObject(refused('challenge response'));
    expect(asked[0]).not.toEqual(asked[1]);
    const other = await issue();
    await expect(attest(other, { answer: listen })).rejects.toMatchObject(refused('challenge response'));
  });

  it('passes on that the agent does not answer, as it is', async () => {
    const { attest } = await startServerHalf();
    const gone = new Error('gone');
    await expect(attest(node, { answer: () => Promise.reject(gone) })).rejects.toBe(gone);
  });
});

describe('the trusted authorities', () => {
  it('are read again when the file changes', async () => {
    const { attest, caFile } = await startServerHalf();
    const next = await TestIdentity.root('nodes', { uris: [], commonName: 'next' });
    const holder = await next.issue('', { uris: [] });
    await expect(attest(holder)).rejects.toMatchObject(refused('certificate verification failed'));
    replace(caFile, root.certificate.toPem() + next.certificate.toPem());
    await attest(holder);
    await attest(node);
    replace(caFile, next.certificate.toPem());
    await expect(attest(node)).rejects.toMatchObject(refused('certificate verification failed'));
  });

  it('stay in use, with one warning, while the file cannot be used', async () => {
    const { attest, caFile, lines } = await startServerHalf();
    for (const text of ['not PEM', node.certificate.toPem(), undefined, root.privateKeyPem]) {
      const before = lines.length;
      if (text === undefined) rmSync(caFile);
      else replace(caFile, text);
      await attest(node);
      await attest(node);
      expect(lines.slice(before)).toHaveLength(1);
      expect(lines.at(-1)).toContain(caFile);
    }
    expect(lines.join('')).not.toContain('PRIVATE KEY-----');
    replace(caFile, root.certificate.toPem());
    await attest(node);
    expect(lines).toHaveLength(4);
  });

  it('may be in several files', async () => {
    const directory = tempDir();
    const other = await TestIdentity.root('nodes', { uris: [], commonName: 'other' });
    const caFiles = [root, other].map(({ certificate }, i) => {
      writeFileSync(join(directory, `${i}.pem`), certificate.toPem());
      return join(directory, `${i}.pem`);
    });
    const { attest } = await startServerHalf({ caFiles });
    await attest(node);
    await attest(await other.issue('', { uris: [] }));
  });

  it.each([
    { name: 'is missing', text: undefined, says: 'ENOENT' },
    { name: 'is empty', text: '', says: 'expected at least one PEM block' },
    {
      name: 'holds the certificate of a node',
      text: node.certificate.toPem(),
      says: 'is not a certificate authority',
    },
  ])('keep the server from starting when the file $name', async ({ text, says }) => {
    const path = join(tempDir(), 'ca.pem');
    if (text !== undefined) writeFileSync(path, text);
    const message = expect.stringMatching(`^nodeAttestors.x509pop.caFile: cannot use "${path}": .*${says}`);
    await expect(startServerHalf({ caFiles: [path] })).rejects.toMatchObject({
      code: 'failed-precondition',
      message,
    });
  });
});

describe('a revocation list', () => {
  async function startWithList() {
    const revocationListFile = join(tempDir(), 'list.pem');
    const write = async (serials: readonly string[], fields: TestListFields = {}) =>
      replace(
        revocationListFile,
        encodePem('X509 CRL', await testRevocationList(root, { serials, ...fields })),
      );
    await write([]);
    return { ...(await startServerHalf({ revocationListFile })), revocationListFile, write };
  }

  it('shuts out what it names, from the moment it does', async () => {
    const { attest, write } = await startWithList();
    await attest(node);
    await write([node.certificate.serialHex]);
    await expect(attest(node)).rejects.toMatchObject({
      ...refused('certificate verification failed: .*is revoked'),
      reason: 'CERTIFICATE_REVOKED',
    });
    await attest(await issue());
    await write([]);
    await attest(node);
  });

  it('shuts out everybody when it is stale, and says so in the log', async () => {
    const { attest, clock, lines, write } = await startWithList();
    await write([], { nextUpdateMs: clock.now() + 60_000 });
    await attest(node);
    await clock.advance(61_000);
    await expect(attest(node)).rejects.toMatchObject({
      ...refused('certificate verification failed: no current revocation list of "CN=root nodes"'),
      reason: 'REVOCATION_UNKNOWN',
    });
    expect(lines.join('')).toContain('"level":"warn"');
  });

  it('shuts out everybody when it cannot be read, without telling them its place', async () => {
    const { attest, lines, revocationListFile } = await startWithList();
    replace(revocationListFile, 'broken');
    const refusal = await attest(node).catch((error: unknown) => error);
    expect(refusal).toMatchObject(refused('the revocation list of the server cannot be used', 'unavailable'));
    expect((refusal as Error).message).not.toContain(revocationListFile);
    expect(lines.join('')).toContain(revocationListFile);
  });

  it('keeps the server from starting when it cannot be read', async () => {
    const start = startServerHalf({ revocationListFile: '/no/such/list' });
    const message = expect.stringContaining(
      'nodeAttestors.x509pop.revocationListFile: cannot use "/no/such/list"',
    );
    await expect(start).rejects.toMatchObject({ code: 'failed-precondition', message });
  });
});

describe('the agent half', () => {
  /** Files of a node, and the half that reads them. */
  async function startAgentHalf(holder = node, settings: Readonly<Record<string, unknown>> = {}) {
    const directory = tempDir();
    const [certFile, keyFile] = [join(directory, 'node.pem'), join(directory, 'node.key')];
    const write = (who: TestIdentity, key: string = who.privateKeyPem) => {
      writeFileSync(certFile, who.certificate.toPem());
      writeFileSync(keyFile, key, { mode: 0o600 });
    };
    write(holder);
    const config = x509popAgentConfig.parse({ certFile, keyFile, ...settings });
    return { agent: new X509popAgentAttestor(config), write, certFile, keyFile, directory };
  }

  const meet = async (agent: X509popAgentAttestor) => {
    const { attestor } = await startServerHalf();
    return attestor.verify(await agent.payload(), { ask: (challenge) => agent.answer(challenge) });
  };

  it('meets the server half', async () => {
    const { agent } = await startAgentHalf();
    expect(await meet(agent)).toMatchObject({ canReattest: true });
  });

  it('sends its intermediates, from either file', async () => {
    const holder = await intermediate.issue('', { uris: [] });
    const { agent, certFile } = await startAgentHalf(holder);
    await expect(meet(agent)).rejects.toMatchObject(refused('certificate verification failed'));
    writeFileSync(certFile, holder.certificate.toPem() + intermediate.certificate.toPem());
    await meet(agent);
    const intermediatesFile = join(tempDir(), 'more.pem');
    writeFileSync(intermediatesFile, intermediate.certificate.toPem());
    await meet((await startAgentHalf(holder, { intermediatesFile })).agent);
  });

  it('follows files that are replaced, and answers for the certificate it has shown', async () => {
    const { agent, write } = await startAgentHalf();
    const { attestor } = await startServerHalf();
    const next = await issue({ keyType: 'ec-p384' });
    const ask = (challenge: Uint8Array) => {
      write(next);
      return agent.answer(challenge);
    };
    const before = await attestor.verify(await agent.payload(), { ask });
    expect(before.agentPath).toContain(sha1(node.certificate));
    expect((await meet(agent)).agentPath).toContain(sha1(next.certificate));
  });

  it.each([
    { form: 'PKCS#1', type: 'rsa-2048' as const, args: ['rsa', '-traditional'] },
    { form: 'SEC 1', type: 'ec-p256' as const, args: ['ec'] },
  ])('takes a key as $form', async ({ type, args }) => {
    const holder = await issue({ keyType: type });
    const { agent, write } = await startAgentHalf(holder);
    write(holder, openssl(args, holder.privateKeyPem).toString());
    await meet(agent);
  });

  it('takes a key as `openssl ecparam -genkey` writes it, parameters first', async () => {
    const holder = await issue();
    const { agent, write } = await startAgentHalf(holder);
    const parameters = openssl(['ecparam', '-name', 'prime256v1']).toString();
    write(holder, parameters + openssl(['ec'], holder.privateKeyPem).toString());
    await meet(agent);
  });

  it('refuses a key that others can read, with the command that helps', async () => {
    const { agent, keyFile } = await startAgentHalf();
    for (const mode of [0o644, 0o640, 0o602]) {
      chmodSync(keyFile, mode);
      await expect(agent.payload()).rejects.toMatchObject({
        code: 'failed-precondition',
        message: expect.stringContaining(`run: chmod 600 ${keyFile}`),
      });
    }
  });

  const encrypted = (pem: string) => openssl(['pkcs8', '-topk8', '-passout', 'pass:x'], pem).toString();
  it.each([
    {
      name: 'an encrypted key',
      key: encrypted(node.privateKeyPem),
      says: 'keyFile: .*unencrypted.*openssl pkey',
    },
    { name: 'no key', key: node.certificate.toPem(), says: 'keyFile: .*holds no private key' },
    { name: 'the key of another certificate', key: root.privateKeyPem, says: 'keyFile: .*is not the key of' },
    {
      name: 'a key of no use',
      key: openssl(['genpkey', '-algorithm', 'ed25519']).toString(),
      says: 'Ed25519',
    },
  ])('refuses $name', async ({ key, says }) => {
    const { agent, write } = await startAgentHalf();
    write(node, key);
    const refusal = await agent.payload().catch((error: unknown) => error);
    expect(refusal).toMatchObject({ code: 'failed-precondition', message: expect.stringMatching(says) });
    expect(String(refusal)).not.toContain('PRIVATE');
  });

  it('names the file that is missing', async () => {
    const { agent, certFile, keyFile } = await startAgentHalf();
    rmSync(keyFile);
    await expect(agent.payload()).rejects.toThrow(keyFile);
    rmSync(certFile);
    await expect(agent.payload()).rejects.toThrow(`nodeAttestor.x509pop.certFile: cannot use "${certFile}"`);
  });

  it('refuses more certificates than a server takes', async () => {
    const { agent, certFile } = await startAgentHalf();
    writeFileSync(certFile, node.certificate.toPem().repeat(9));
    await expect(agent.payload()).rejects.toThrow('at most 8');
  });

  it('signs nothing but a challenge that follows its payload', async () => {
    const { agent } = await startAgentHalf();
    const challenge = Buffer.from(`{"ecdsa_signature":{"nonce":"${Buffer.alloc(32).toString('base64')}"}}`);
    await expect(agent.answer(challenge)).rejects.toMatchObject({ code: 'failed-precondition' });
    await agent.payload();
    expect((await agent.answer(challenge)).length).toBeGreaterThan(100);
    for (const text of ['', '{}', '{"rsa_signature":{"nonce":""}}', '{"ecdsa_signature":{"nonce":"AAAA"}}']) {
      await expect(agent.answer(Buffer.from(text))).rejects.toMatchObject({ code: 'invalid-argument' });
    }
  });
});

describe('the settings', () => {
  it.each([
    {},
    { caFile: 'a', caFiles: ['b'] },
    { caFile: '' },
    { caFiles: [] },
    { caFile: 'a', agentPathTemplate: '/{{ .Fingerprint }}' },
    { caFile: 'a', agentPathTemplate: '/x/{{ .URISanSelectors.a.b }}' },
    { caFile: 'a', caPath: 'b' },
  ])('of the server half cannot be %j', (settings) => {
    expect(x509popServerConfig.safeParse(settings).success).toBe(false);
  });

  it.each([{}, { certFile: 'a' }, { certFile: 'a', keyFile: '' }, { certFile: 'a', keyFile: 'b', key: 'c' }])(
    'of the agent half cannot be %j',
    (settings) => {
      expect(x509popAgentConfig.safeParse(settings).success).toBe(false);
    },
  );
});
