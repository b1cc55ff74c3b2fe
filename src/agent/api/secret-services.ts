import type { GrpcService } from '../../rpc/handlers.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';
import { version } from '../../runtime/version.ts';
import type { AgentConfig } from '../config.ts';
import type { WorkloadSources } from './attested-caller.ts';
import { FileRoots } from './file-roots.ts';
import { ProxyDeliveries } from './proxy-deliveries.ts';
import { secretApis } from './sds-api.ts';
import { parseSdsNames, type SdsNames } from './sds-names.ts';
import { SdsResources } from './sds-resources.ts';
import type { SdsLimits } from './sds-session.ts';

/** All that serves secrets, connected. */
export interface SecretServices {
  readonly services: readonly GrpcService[];
  /** To be run beside them. */
  readonly fileRoots: FileRoots;
  /** What was served, by proxy; to be run too. */
  readonly book: ProxyDeliveries['book'];
  readonly names: SdsNames;
}

/** Furnishes the secret services. Throws AppError `invalid-argument` for names that cannot be told apart. */
export function openSecretServices(
  settings: AgentConfig['sds'],
  deps: WorkloadSources & {
    readonly limits?: Partial<SdsLimits>;
    readonly clock: Clock;
    readonly log: Logger;
  },
): SecretServices {
  const identifier = `signet-agent/${version}`;
  const names = parseSdsNames(settings);
  const fileRoots = new FileRoots(deps);
  const { validator, unknownNames, onWithdraw, ackTimeout: ackTimeoutMs, closeStalled } = settings;
  const resources = new SdsResources({ ...deps, names, validator, identifier, fileRoots });
  const delivery = { onWithdraw, ackTimeoutMs, closeStalled };
  const deliveries = new ProxyDeliveries({ ...deps, source: resources, settings: delivery });
  const services = secretApis({ ...deps, deliveries, names, resources, unknownNames, identifier });
  return { services, fileRoots, book: deliveries.book, names };
}
