import { describe, expect, it, onTestFinished } from 'vitest';
import { HealthService, HealthCheckResponse_ServingStatus as Status } from '../gen/grpc/health/v1/health.ts';
import { ServerReflectionService } from '../gen/grpc/reflection/v1/reflection.ts';
import { State } from '../gen/signet/health/v1/health.ts';
import { ListProxiesRequest, ProxiesService } from '../gen/signet/proxy/v1/proxy.ts';
import { LoggerService } from '../gen/spire/api/agent/logger/v1/logger.ts';
import { LogLevel } from '../gen/spire/api/types/logger.ts';
import {
  type ClientChannel,
  callServerStream,
  callUnary,
  openBidi,
  unixChannel,
} from '../rpc/grpc-client.ts';
import { healthy, startAgent } from '../testing/running-agent.ts';

const anyProxy = ListProxiesRequest.decode(new Uint8Array());

function channelTo(socket: string): ClientChannel {
  const channel = unixChannel(socket);
  onTestFinished(() => channel.close());
  return channel;
}

async function servicesOf(channel: ClientChannel): Promise<readonly string[]> {
  const call = openBidi(channel, ServerReflectionService.serverReflectionInfo);
  call.send({ host: '', messageRequest: { $case: 'listServices', value: '' } });
  try {
    const answer = (await call.next())?.messageResponse;
    return answer?.$case === 'listServicesResponse' ? answer.value.service.map(({ name }) => name) : [];
  } finally {
    call.cancel();
  }
}

describe('the sockets of an agent', () => {
  it('both tell probes whether it serves, the whole and by service', async () => {
    const { config, health } = await startAgent();
    await healthy(health, ({ state }) => state === State.OK);
    const names = {
      [config.adminSocket]: ['', 'spire.api.agent.logger.v1.Logger'],
      [config.workloadSocket]: ['', 'SpiffeWorkloadAPI', 'envoy.service.secret.v3.SecretDiscoveryService'],
    };
    for (const [socket, services] of Object.entries(names)) {
      const channel = channelTo(socket);
      for (const service of services) {
        const { status } = await callUnary(channel, HealthService.check, { service });
        expect([service, status]).toEqual([service, Status.SERVING]);
      }
      const { statuses } = await callUnary(channel, HealthService.list, {});
      expect(Object.keys(statuses)).toEqual(expect.arrayContaining(services));
    }
  });

  it('do not serve without an identity', async () => {
    const { config } = await startAgent({ token: 'no-such-token' });
    const channel = channelTo(config.workloadSocket);
    const watch = callServerStream(channel, HealthService.watch, { service: '' });
    expect((await watch.next()).value).toEqual({ status: Status.NOT_SERVING });
    await watch.return();
  });

  it('show and set the log level, and describe themselves, for administrators only', async () => {
    const { config } = await startAgent();
    const [admin, workload] = [channelTo(config.adminSocket), channelTo(config.workloadSocket)];
    const level = await callUnary(admin, LoggerService.getLogger, {});
    expect(level.currentLevel).toBe(level.launchLevel);
    expect(await servicesOf(admin)).toEqual([
      'signet.health.v1.Health',
      'spire.api.agent.logger.v1.Logger',
      'signet.proxy.v1.Proxies',
      'grpc.health.v1.Health',
      'grpc.reflection.v1.ServerReflection',
      'grpc.reflection.v1alpha.ServerReflection',
    ]);
    const refused = { code: 'unimplemented' };
    const others = callServerStream(workload, ProxiesService.listProxies, anyProxy);
    await expect(others.next()).rejects.toMatchObject(refused);
    await expect(servicesOf(workload)).rejects.toMatchObject(refused);
    await expect(
      callUnary(workload, LoggerService.setLogLevel, { newLevel: LogLevel.DEBUG }),
    ).rejects.toMatchObject(refused);
  });
});
