import {
  type ServerReflectionRequest,
  type ServerReflectionResponse,
  ServerReflectionService,
} from '../gen/grpc/reflection/v1/reflection.ts';
import { ServerReflectionService as AlphaReflectionService } from '../gen/grpc/reflection/v1alpha/reflection.ts';
import { AppError } from '../runtime/error.ts';
import { bidi, type GrpcService, serviceOf } from './handlers.ts';
import { nameOf } from './service-name.ts';
import { toServiceError } from './status.ts';

type Answer = NonNullable<ServerReflectionResponse['messageResponse']>;
type Files = typeof import('../gen/descriptors.ts')['descriptorFiles'];

/**
 * The services together with `grpc.reflection` v1 and v1alpha, which tell clients such as grpcurl what they are. The
 * descriptors are read when somebody asks for the first time.
 */
export function withReflection(services: readonly GrpcService[]): readonly GrpcService[] {
  const own = [ServerReflectionService, AlphaReflectionService].map((definition) => nameOf({ definition }));
  const names = [...services.map(nameOf), ...own];
  const handlers = {
    serverReflectionInfo: bidi(async function* (requests: AsyncIterable<ServerReflectionRequest>) {
      const { descriptorFiles } = await import('../gen/descriptors.ts');
      for await (const request of requests) {
        const messageResponse = answered(request, names, descriptorFiles);
        yield { validHost: request.host, originalRequest: request, messageResponse };
      }
    }),
  };
  return [
    ...services,
    serviceOf(ServerReflectionService, handlers),
    serviceOf(AlphaReflectionService, handlers),
  ];
}

/** A question that has no answer gets an error as its answer; the stream goes on. */
function answered(request: ServerReflectionRequest, names: readonly string[], files: Files): Answer {
  try {
    return answerTo(request, names, files);
  } catch (error) {
    const { code, details } = toServiceError(error);
    return { $case: 'errorResponse', value: { errorCode: code, errorMessage: details } };
  }
}

function answerTo(
  { messageRequest }: ServerReflectionRequest,
  names: readonly string[],
  files: Files,
): Answer {
  switch (messageRequest?.$case) {
    case 'listServices':
      return { $case: 'listServicesResponse', value: { service: names.map((name) => ({ name })) } };
    case 'fileByFilename':
      return filesFrom(messageRequest.value, files);
    case 'fileContainingSymbol':
      return filesFrom(fileOf(messageRequest.value, files), files);
    case 'allExtensionNumbersOfType':
      fileOf(messageRequest.value, files);
      return {
        $case: 'allExtensionNumbersResponse',
        value: { baseTypeName: messageRequest.value, extensionNumber: [] },
      };
    case 'fileContainingExtension':
      throw new AppError('not-found', 'there are no extensions');
    case undefined:
      throw new AppError('invalid-argument', 'the request asks for nothing');
  }
}

function fileOf(symbol: string, files: Files): string {
  const found = Object.entries(files).find(([, { symbols }]) => symbols.includes(symbol));
  if (found === undefined) throw new AppError('not-found', `symbol not found: ${symbol}`);
  return found[0];
}

/** The file and all that it imports, each once, so that clients need not ask again. */
function filesFrom(name: string, files: Files): Answer {
  const found = new Map<string, Buffer>();
  const pending = [name];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    if (found.has(next)) continue;
    const file = Object.hasOwn(files, next) ? files[next] : undefined;
    if (file === undefined) throw new AppError('not-found', `file not found: ${next}`);
    found.set(next, Buffer.from(file.descriptor, 'base64'));
    pending.push(...file.imports);
  }
  return { $case: 'fileDescriptorResponse', value: { fileDescriptorProto: [...found.values()] } };
}
