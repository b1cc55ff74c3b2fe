import { beforeAll, describe, expect, it } from 'vitest';
import type { ClientChannel } from '../../rpc/grpc-client.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { refusalOf } from '../../testing/raw-call.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { type ServiceMethod, serverMethods } from '../../testing/service-definitions.ts';
import { noAbort, TestServer } from '../../testing/test-server.ts';
import { accessTable, type CallerKind } from './access-table.ts';
import { missingMethods } from './missing-methods.ts';

const table = new Map<string, readonly CallerKind[]>(Object.entries(accessTable));
const idOf = (path: string) => SpiffeId.parse(`spiffe://example.org${path}`);

let methods: readonly ServiceMethod[];
beforeAll(async () => {
  methods = await serverMethods();
});

/** Starts a server that knows an agent and these entries below it. */
async function startServer() {
  const server = await TestServer.start({ settings: { adminIds: ['spiffe://example.org/ops'] } });
  const agent = await server.join();
  const entry = (path: string, flags: { readonly admin?: boolean; readonly downstream?: boolean }) =>
    testEntry({ ...flags, id: '', parentId: agent.id, spiffeId: `spiffe://example.org${path}` });
  const entries = [entry('/admin', { admin: true }), entry('/site', { downstream: true }), entry('/web', {})];
  await server.admin.entries.create(entries, { signal: noAbort });
  const connectAs = async (path: string) => server.connect(await server.mint(idOf(path)));
  return { server, agent, connectAs };
}
type Started = Awaited<ReturnType<typeof startServer>>;

const callers: readonly {
  name: string;
  kinds: readonly CallerKind[];
  connect: (started: Started) => Promise<ClientChannel> | ClientChannel;
}[] = [
  { name: 'the admin socket', kinds: ['local'], connect: ({ server }) => server.adminChannel },
  { name: 'somebody without a certificate', kinds: [], connect: ({ server }) => server.connect() },
  { name: 'an agent', kinds: ['agent'], connect: ({ agent }) => agent.channel },
  { name: 'an administrator by entry', kinds: ['admin'], connect: ({ connectAs }) => connectAs('/admin') },
  { name: 'an administrator by setting', kinds: ['admin'], connect: ({ connectAs }) => connectAs('/ops') },
  { name: 'a downstream server', kinds: ['downstream'], connect: ({ connectAs }) => connectAs('/site') },
  { name: 'a workload', kinds: [], connect: ({ connectAs }) => connectAs('/web') },
  {
    name: 'an agent that was banned',
    kinds: [],
    connect: async ({ server, agent }) => {
      await server.ban(agent.id);
      return agent.channel;
    },
  },
];

describe('every method of the server', () => {
  it.each(callers)('is open to $name as the table says, and is there or says why not', async (caller) => {
    const channel = await caller.connect(await startServer());
    for (const method of methods) {
      const { path } = method;
      const isAllowed = (table.get(path) ?? []).some((kind) => kind === 'any' || caller.kinds.includes(kind));
      const found = await refusalOf(channel, method);
      if (!isAllowed) expect([path, found?.code]).toEqual([path, 'permission-denied']);
      else if (Object.hasOwn(missingMethods, path)) {
        expect([path, found?.code, found?.message]).toEqual([path, 'unimplemented', missingMethods[path]]);
      } else {
        expect([path, found?.code]).not.toEqual([path, 'permission-denied']);
        expect([path, found?.code]).not.toEqual([path, 'unimplemented']);
        expect([path, found?.code]).not.toEqual([path, 'internal']);
      }
    }
  });

  it('that is missing is a method that exists', () => {
    const paths = methods.map(({ path }) => path);
    expect(Object.keys(missingMethods).filter((path) => !paths.includes(path))).toEqual([]);
  });
});
