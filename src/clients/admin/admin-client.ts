import type { ClientChannel } from '../../rpc/grpc-client.ts';
import { AgentClient } from './agent-client.ts';
import { AuthorityClient } from './authority-client.ts';
import { BundleClient } from './bundle-client.ts';
import { EntryClient } from './entry-client.ts';
import { SvidClient } from './svid-client.ts';

/**
 * The server's API for administrators in our own types, a client for each of its services. On the wire it behaves
 * like `spire-server`, so it works with both servers. Every call has a deadline and throws AppError.
 */
export class AdminClient {
  readonly agents: AgentClient;
  readonly authorities: AuthorityClient;
  readonly bundles: BundleClient;
  readonly entries: EntryClient;
  readonly svids: SvidClient;

  constructor(channel: ClientChannel) {
    this.agents = new AgentClient(channel);
    this.authorities = new AuthorityClient(channel);
    this.bundles = new BundleClient(channel);
    this.entries = new EntryClient(channel);
    this.svids = new SvidClient(channel);
  }
}
