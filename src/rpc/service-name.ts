import type { GrpcService } from './handlers.ts';

/** The full name of a service, such as `grpc.health.v1.Health`. */
export function nameOf({ definition }: Pick<GrpcService, 'definition'>): string {
  const [, name = ''] = Object.values(definition)[0]?.path.split('/') ?? [];
  return name;
}
