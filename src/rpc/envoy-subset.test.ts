import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

/** The part of google.protobuf.FileDescriptorProto, as JSON, that the wire depends on. */
interface Field {
  readonly name: string;
  readonly number: number;
  readonly type: string;
  readonly label: string;
  readonly typeName?: string;
  readonly oneofIndex?: number;
  readonly proto3Optional?: boolean;
}

interface Message {
  readonly name: string;
  readonly field?: readonly Field[];
  readonly nestedType?: readonly Message[];
  readonly oneofDecl?: readonly { readonly name: string }[];
}

interface File {
  readonly name: string;
  readonly package?: string;
  readonly messageType?: readonly Message[];
  readonly service?: readonly {
    readonly name: string;
    readonly method?: readonly {
      readonly name: string;
      readonly inputType: string;
      readonly outputType: string;
    }[];
  }[];
}

const deps = resolve('node_modules/@grpc/grpc-js-xds/deps');
const modules = ['envoy-api', 'googleapis', 'xds', 'protoc-gen-validate'];
/** Ours that are parts of foreign definitions. */
const subset = /^(envoy|google\/rpc)\//;

function build(directory: string, paths: readonly string[]): readonly File[] {
  const args = ['build', '.', '-o', '-#format=json', ...paths.flatMap((path) => ['--path', path])];
  const json = execFileSync(resolve('node_modules/.bin/buf'), args, {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 64 * 1024 * 1024,
  });
  return (JSON.parse(json.toString()) as { file: File[] }).file;
}

function ours(): readonly File[] {
  return build(resolve('.'), []).filter((file) => subset.test(file.name));
}

/** Envoy's complete definitions of the same files, as the package ships them. */
function complete(workspace: string, names: readonly string[]): readonly File[] {
  for (const module of modules) {
    mkdirSync(join(workspace, module));
    // Protos of protoc-gen-validate's own tests do not compile together.
    const filter = (path: string) => !path.includes('protoc-gen-validate/tests');
    cpSync(join(deps, module), join(workspace, module), { recursive: true, filter });
  }
  const paths = modules.map((path) => `  - path: ${path}\n`).join('');
  writeFileSync(join(workspace, 'buf.yaml'), `version: v2\nmodules:\n${paths}`);
  const roots = names.map((name) => (name.startsWith('envoy/') ? `envoy-api/${name}` : `googleapis/${name}`));
  return build(workspace, roots);
}

/** Full message name and field → all of the field that shows on the wire or in generated code. */
function fieldsOf(files: readonly File[]): Map<string, object> {
  const found = new Map<string, object>();
  const visit = (scope: string, message: Message): void => {
    const path = `${scope}.${message.name}`;
    for (const { name, number, type, label, typeName, oneofIndex, proto3Optional } of message.field ?? []) {
      const oneof = oneofIndex === undefined ? undefined : message.oneofDecl?.[oneofIndex]?.name;
      found.set(`${path}.${name}`, { number, type, label, typeName, oneof, proto3Optional });
    }
    for (const nested of message.nestedType ?? []) visit(path, nested);
  };
  for (const file of files) for (const message of file.messageType ?? []) visit(file.package ?? '', message);
  return found;
}

function methodsOf(files: readonly File[]): Map<string, object> {
  return new Map(
    files.flatMap((file) =>
      (file.service ?? []).flatMap((service) =>
        (service.method ?? []).map(({ name, ...method }) => {
          // Options such as the HTTP mapping are not part of the call.
          const { options, ...call } = method as { options?: object };
          return [`${file.package}.${service.name}.${name}`, call] as const;
        }),
      ),
    ),
  );
}

describe("our part of Envoy's definitions", () => {
  let workspace: string;
  let mine: readonly File[];
  let theirs: readonly File[];
  beforeAll(() => {
    workspace = mkdtempSync(join(tmpdir(), 'signet-'));
    mine = ours();
    theirs = complete(
      workspace,
      mine.map((file) => file.name),
    );
  });
  afterAll(() => rmSync(workspace, { recursive: true, force: true }));

  test('says nothing else of any field than the complete ones', () => {
    const full = fieldsOf(theirs);
    const part = fieldsOf(mine);
    expect(part.size).toBeGreaterThan(35);
    expect(Object.fromEntries(part)).toEqual(
      Object.fromEntries([...part.keys()].map((name) => [name, full.get(name)])),
    );
  });

  test('has the same methods', () => {
    const full = methodsOf(theirs);
    const part = methodsOf(mine);
    expect([...part.keys()]).toContain('envoy.service.secret.v3.SecretDiscoveryService.StreamSecrets');
    expect(Object.fromEntries(part)).toEqual(
      Object.fromEntries([...part.keys()].map((name) => [name, full.get(name)])),
    );
  });

  test('is not the whole: what is left out is what need not be decoded', () => {
    expect(fieldsOf(theirs).has('envoy.config.core.v3.Node.extensions')).toBe(true);
    expect(fieldsOf(mine).has('envoy.config.core.v3.Node.extensions')).toBe(false);
  });
});
