import type { Logger } from '../../runtime/log.ts';
import { LogLimiter } from '../../runtime/log-limiter.ts';
import type { Clock } from '../../runtime/time.ts';
import { ProxyBook } from '../proxy-book.ts';
import type { AttestedCaller } from './attested-caller.ts';
import type { SecretSource } from './delivery-choice.ts';
import { type DeliverySettings, ProxyDelivery } from './proxy-delivery.ts';

/** The deliveries to all proxies, and the book about them. */
export class ProxyDeliveries {
  /** To be run as a service. */
  readonly book: ProxyBook<ProxyDelivery>;

  constructor(deps: {
    readonly source: SecretSource;
    readonly settings: DeliverySettings;
    readonly clock: Clock;
    readonly log: Logger;
  }) {
    const { source, settings, clock } = deps;
    // A proxy may be slow, or make itself so, as often as it likes.
    const log = new LogLimiter(deps);
    this.book = new ProxyBook({
      ...deps,
      create: (record) => new ProxyDelivery(record, { source, settings, clock, log }),
    });
  }

  /** The delivery to the caller's process; `open` is to be called in the same turn. */
  of({ peer, selectors, view }: Pick<AttestedCaller, 'peer' | 'selectors' | 'view'>): ProxyDelivery {
    const delivery = this.book.open({ peer, selectors });
    delivery.follow(view);
    return delivery;
  }
}
