import { fromBinary } from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema } from '@bufbuild/protobuf/wkt';
import { describe, expect, it } from 'vitest';
import {
  type ServerReflectionRequest,
  ServerReflectionService,
} from '../gen/grpc/reflection/v1/reflection.ts';
import { ServerReflectionService as AlphaService } from '../gen/grpc/reflection/v1alpha/reflection.ts';
import { EntryService } from '../gen/spire/api/server/entry/v1/entry.ts';
import { channelTo, startListener } from '../testing/grpc-listener.ts';
import { openBidi } from './grpc-client.ts';
import { serviceOf } from './handlers.ts';
import { withReflection } from './reflection-api.ts';

type Question = NonNullable<ServerReflectionRequest['messageRequest']>;

/** Asks on one stream; the answers. */
async function ask(...questions: readonly (Question | undefined)[]) {
  const channel = channelTo(await startListener({ services: withReflection([serviceOf(EntryService, {})]) }));
  const answers = [];
  for (const { serverReflectionInfo } of [ServerReflectionService, AlphaService]) {
    const call = openBidi(channel, serverReflectionInfo);
    const found = [];
    for (const messageRequest of questions) {
      call.send({ host: 'h', messageRequest });
      found.push((await call.next())?.messageResponse);
    }
    call.conclude();
    answers.push(found);
  }
  expect(answers[0]).toEqual(answers[1]);
  return answers[0] ?? [];
}

const files = async (question: Question) => {
  const [answer] = await ask(question);
  if (answer?.$case !== 'fileDescriptorResponse') throw new Error(`no files: ${JSON.stringify(answer)}`);
  return answer.value.fileDescriptorProto.map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes));
};

describe('reflection', () => {
  it('lists the services of its socket, itself included', async () => {
    const [answer] = await ask({ $case: 'listServices', value: '*' });
    expect(answer).toEqual({
      $case: 'listServicesResponse',
      value: {
        service: [
          { name: 'spire.api.server.entry.v1.Entry' },
          { name: 'grpc.reflection.v1.ServerReflection' },
          { name: 'grpc.reflection.v1alpha.ServerReflection' },
        ],
      },
    });
  });

  it.each([
    'spire.api.server.entry.v1.Entry',
    'spire.api.server.entry.v1.Entry.ListEntries',
    'spire.api.server.entry.v1.ListEntriesRequest',
    'spire.api.server.entry.v1.ListEntriesRequest.Filter',
  ])('finds the file of %s, with all that it imports', async (value) => {
    const found = await files({ $case: 'fileContainingSymbol', value });
    const names = found.map(({ name }) => name);
    expect(names[0]).toBe('spire/api/server/entry/v1/entry.proto');
    expect(new Set(names).size).toBe(names.length);
    const missing = found.flatMap(({ dependency }) => dependency).filter((name) => !names.includes(name));
    expect(missing).toEqual([]);
    expect(found[0]?.service[0]?.method.map(({ name }) => name)).toContain('SyncAuthorizedEntries');
  });

  it('finds a file by its name', async () => {
    const found = await files({ $case: 'fileByFilename', value: 'google/protobuf/any.proto' });
    expect(found.map(({ name }) => name)).toEqual(['google/protobuf/any.proto']);
  });

  it('knows that there are no extensions', async () => {
    const containingType = 'spire.api.types.Entry';
    const answers = await ask(
      { $case: 'allExtensionNumbersOfType', value: containingType },
      { $case: 'fileContainingExtension', value: { containingType, extensionNumber: 1 } },
    );
    expect(answers).toMatchObject([
      { $case: 'allExtensionNumbersResponse', value: { baseTypeName: containingType, extensionNumber: [] } },
      { $case: 'errorResponse', value: { errorCode: 5 } },
    ]);
  });

  it('answers what it cannot answer with an error, and the stream goes on', async () => {
    const answers = await ask(
      { $case: 'fileContainingSymbol', value: 'no.such.Thing' },
      { $case: 'fileByFilename', value: '../../etc/passwd' },
      { $case: 'fileByFilename', value: 'constructor' },
      { $case: 'allExtensionNumbersOfType', value: '__proto__' },
      undefined,
    );
    expect(answers.map((answer) => answer?.$case === 'errorResponse' && answer.value.errorCode)).toEqual([
      5, 5, 5, 5, 3,
    ]);
  });
});
