import { globSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { ServiceDefinition } from '@grpc/grpc-js';

/** A method of a generated service, by its full path such as `/grpc.health.v1.Health/Check`. */
export interface ServiceMethod {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
}

const generated = resolve(import.meta.dirname, '../gen');

/** Every method of every service that is generated below these folders of `src/gen`, in order of path. */
async function methodsBelow(...folders: readonly string[]): Promise<readonly ServiceMethod[]> {
  const files = folders.flatMap((folder) =>
    globSync('**/*.ts', { cwd: join(generated, folder) }).map((f) => join(generated, folder, f)),
  );
  const modules = await Promise.all(files.map((file) => import(file) as Promise<Record<string, unknown>>));
  return modules
    .flatMap((module) => Object.entries(module))
    .filter(([name]) => name.endsWith('Service'))
    .flatMap(([, service]) => Object.values(service as ServiceDefinition))
    .map(({ path, requestStream, responseStream }) => ({ path, requestStream, responseStream }))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Every method that the server's sockets may have. */
export function serverMethods(): Promise<readonly ServiceMethod[]> {
  return methodsBelow('spire/api/server', 'grpc', 'signet/authority', 'signet/health');
}
