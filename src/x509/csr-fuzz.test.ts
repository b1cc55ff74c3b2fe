import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AppError } from '../runtime/error.ts';
import { openssl } from '../testing/openssl.ts';
import { newSigner } from '../testing/test-authority.ts';
import { buildCsr, type CertificateRequest, parseCsr, verifyCsr } from './csr.ts';
import { DerReader } from './der-reader.ts';
import { element } from './der-writer.ts';
import { encodeName } from './names.ts';
import { encodeSigned } from './signed.ts';

const signer = await newSigner();
const uris = ['spiffe://a.test/w'];
const subject = encodeName({ country: ['US'], organization: ['A', 'B'], commonName: 'a' });
const request = await buildCsr({ signer, subject, uris, dnsNames: ['a.test'] });
const maxBytes = 16 * 1024;

/** The request when it is accepted; any error but our own goes through. */
function accepted(der: Uint8Array): CertificateRequest | undefined {
  try {
    const csr = parseCsr(der);
    verifyCsr(csr);
    return csr;
  } catch (error) {
    if (error instanceof AppError && error.code === 'invalid-argument') return undefined;
    throw error;
  }
}

/** DER taken apart, to be changed anywhere and put together again with lengths that are right. */
interface Node {
  readonly tag: number;
  readonly children?: readonly Node[];
  readonly bytes: Buffer;
}

function parseAll(der: Buffer): Node[] {
  const nodes: Node[] = [];
  for (const reader = new DerReader(der); !reader.isAtEnd; ) {
    const { tag, contents } = reader.any('node');
    const inside = (tag & 0x20) !== 0 || tag === 0x04 ? tryParse(contents) : undefined;
    nodes.push(inside === undefined ? { tag, bytes: contents } : { tag, children: inside, bytes: contents });
  }
  return nodes;
}

function tryParse(der: Buffer): Node[] | undefined {
  try {
    return parseAll(der);
  } catch {
    return undefined;
  }
}

function encode({ tag, children, bytes }: Node): Buffer {
  return element(tag, ...(children === undefined ? [bytes] : children.map(encode)));
}

const size = (node: Node): number => 1 + (node.children ?? []).reduce((sum, child) => sum + size(child), 0);

/** The tree in which the node of this number, counted in order, has become the given ones. */
function replaced(node: Node, number: number, change: (node: Node) => readonly Node[]): readonly Node[] {
  if (number === 0) return change(node);
  let left = number - 1;
  const children = (node.children ?? []).flatMap((child) => {
    const at = left;
    left -= size(child);
    return at >= 0 && at < size(child) ? replaced(child, at, change) : [child];
  });
  return [{ tag: node.tag, bytes: node.bytes, children }];
}

const noise = fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes));
const tag = fc.constantFrom(...[1, 2, 3, 4, 5, 6, 12, 19, 22, 23, 48, 49, 128, 130, 134, 135, 160, 161, 164]);
const anyChange: fc.Arbitrary<(node: Node) => readonly Node[]> = fc.oneof(
  fc.constant(() => []),
  fc.constant((node: Node) => [node, node]),
  fc.constant((node: Node) => [{ ...node, children: (node.children ?? []).toReversed() }]),
  fc.constant((node: Node) => [{ tag: node.tag, bytes: Buffer.alloc(0) }]),
  tag.map((other) => (node: Node) => [{ ...node, tag: other }]),
  tag.map((other) => (node: Node) => [{ tag: other, children: [node], bytes: node.bytes }]),
  noise.map((bytes) => (node: Node) => [{ tag: node.tag, bytes }]),
  fc.tuple(tag, noise).map(([other, bytes]) => (node: Node) => [node, { tag: other, bytes }]),
  fc.integer({ min: 1, max: 300 }).map((levels) => (node: Node) => {
    let deep = node;
    for (let i = 0; i < levels; i += 1) deep = { tag: 0x30, children: [deep], bytes: node.bytes };
    return [deep];
  }),
  fc.nat(1 << 16).map((at) => (node: Node) => {
    const bytes = encode(node).subarray(2);
    const changed = Buffer.from(node.children === undefined ? node.bytes : bytes);
    if (changed.length > 0) changed[(at >> 8) % changed.length] = at & 0xff;
    return [{ tag: node.tag, bytes: changed }];
  }),
);

/** Changes of the signed part, somewhere, once or twice; signed anew, so that only the parser can refuse them. */
const [info] = parseAll(new DerReader(request).enter('request').any('info').encoded);
const anyInfo = fc.array(fc.tuple(fc.nat(1000), anyChange), { minLength: 1, maxLength: 2 }).map((changes) => {
  let root: Node = info!;
  for (const [number, change] of changes) {
    const [changed] = replaced(root, number % size(root), change);
    root = changed ?? root;
  }
  return encode(root);
});

async function signed(content: Buffer): Promise<Buffer> {
  return encodeSigned(content, signer.type, await signer.sign(content));
}

/** What openssl prints of a request; undefined when it refuses it. */
function textByOpenssl(der: Buffer): string | undefined {
  try {
    return openssl(['req', '-inform', 'DER', '-noout', '-verify', '-text'], der).toString();
  } catch {
    return undefined;
  }
}

describe('a request that was made wrong on purpose', () => {
  it('never brings the parser down, however it is signed', async () => {
    await fc.assert(
      fc.asyncProperty(anyInfo, async (content) => {
        const der = await signed(content);
        const csr = accepted(der);
        if (csr === undefined) return;
        // What counts is never more than what is there, and only for the key that signed.
        expect(csr.spki.equals(signer.publicKey)).toBe(true);
        for (const name of [...csr.uris, ...csr.dnsNames]) expect(der.includes(name, 0, 'latin1')).toBe(true);
      }),
      { numRuns: 3000 },
    );
  });

  it('means the same to openssl when it is accepted', async () => {
    const seen = new Map<string, { der: Buffer; names: readonly string[] }>();
    for (const content of fc.sample(anyInfo, { numRuns: 3000, seed: 4 })) {
      const der = await signed(content);
      const csr = accepted(der);
      // One of each kind is enough: a process for each would take minutes.
      if (csr !== undefined) {
        const names = [...csr.uris.map((uri) => `URI:${uri}`), ...csr.dnsNames.map((name) => `DNS:${name}`)];
        seen.set(`${content.length} ${names.join(' ')}`, { der, names });
      }
    }
    expect(seen.size).toBeGreaterThan(5);
    let compared = 0;
    for (const { der, names } of [...seen.values()].slice(0, 60)) {
      const theirs = textByOpenssl(der);
      // Raw where it cannot decode the list: names of other kinds, which we do not look into, may be wrong.
      if (theirs === undefined || /Alternative Name:.*\n +0/.test(theirs)) continue;
      compared += 1;
      for (const name of names) expect(theirs).toContain(name);
      expect(theirs.match(/(URI|DNS):/g) ?? []).toHaveLength(names.length);
    }
    expect(compared).toBeGreaterThan(5);
  });

  it('is refused when anything of the frame is changed, at any position', () => {
    for (let at = 0; at < request.length; at += 1) {
      for (const value of [0x00, 0x30, 0x7f, 0x80, 0x81, 0x84, 0xff]) {
        const damaged = Buffer.from(request);
        if (damaged[at] === value) continue;
        damaged[at] = value;
        expect(accepted(damaged), `byte ${at} = ${value}`).toBeUndefined();
      }
      for (const insert of [Buffer.of(0), Buffer.of(0x30, 0x80), Buffer.of(0x84, 0xff, 0xff, 0xff, 0xff)]) {
        const longer = Buffer.concat([request.subarray(0, at), insert, request.subarray(at)]);
        expect(accepted(longer), `inserted at ${at}`).toBeUndefined();
      }
    }
  });

  it('is refused soon however large it is', () => {
    const [one, many] = [Buffer.of(0x30, 0), 100 * maxBytes];
    const nested = Buffer.alloc(maxBytes);
    for (let at = 0; at + 4 <= maxBytes; at += 4) {
      nested.set([0x30, 0x82], at);
      nested.writeUInt16BE(maxBytes - at - 4, at + 2);
    }
    const attributes = element(0xa0, ...Array.from({ length: 4000 }, () => one));
    const huge = [
      Buffer.alloc(many, 0x30),
      nested,
      element(0x30, element(0x30, Buffer.alloc(maxBytes - 200, 0x06))),
      element(0x30, element(0x30, Buffer.of(2, 1, 0), element(0x30), element(0x30), attributes)),
    ];
    for (const der of huge) expect(accepted(der)).toBeUndefined();
  });
});
