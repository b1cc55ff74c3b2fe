import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { HealthService } from '../gen/grpc/health/v1/health.ts';
import { closed } from '../testing/grpc-listener.ts';
import { portOf, startTls, verify } from '../testing/tls-listener.ts';
import { limitConnecting } from './connect-timeout.ts';
import { callUnary, tlsChannel } from './grpc-client.ts';

/** A port where the packets of new connections vanish: its process is stopped, and its queue is full. */
async function blackHole(): Promise<number> {
  const program = `
    const server = require('node:net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => {
      process.stdout.write(String(server.address().port));
    });`;
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const [port] = await once(child.stdout, 'data');
  child.kill('SIGSTOP');
  // The queue takes a few; from then on nobody answers.
  for (;;) {
    const socket = attempt(Number(port));
    const isIn = await Promise.race([
      once(socket, 'connect').then(() => true),
      // After the timer the loop looks once more for an answer that has long come, on a busy machine.
      new Promise<boolean>((resolve) => setTimeout(() => setImmediate(resolve, false), 200)),
    ]);
    if (!isIn) return Number(port);
  }
}

function attempt(port: number): Socket {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  onTestFinished(() => void socket.destroy());
  return socket;
}

describe('a connection attempt that nobody answers', () => {
  it('fails in time, and the call with it, instead of lasting as long as the system tries', async () => {
    const port = await blackHole();
    const channel = tlsChannel({
      address: `127.0.0.1:${port}`,
      tls: { verifyServer: verify },
      connectTimeoutMs: 100,
    });
    onTestFinished(() => channel.close());
    await expect(callUnary(channel, HealthService.check, { service: '' })).rejects.toMatchObject({
      code: 'unavailable',
      message: 'cannot connect: no answer to the connection attempt in time',
    });
  });

  it('is left alone on other ports, and when nobody asks for a limit any more', async () => {
    const [port, other] = await Promise.all([blackHole(), blackHole()]);
    const end = limitConnecting(port, 50);
    const endOther = limitConnecting(other, 50);
    await closed(attempt(port));
    end();
    end();
    const patient = attempt(port);
    await closed(attempt(other));
    await closed(attempt(other));
    expect(patient.connecting).toBe(true);
    endOther();
  });
});

describe('a connection that is there', () => {
  it('stays', async () => {
    const { listener } = await startTls();
    const port = portOf(listener.address);
    const hole = await blackHole();
    const ends = [limitConnecting(port, 20), limitConnecting(hole, 60)];
    const socket = attempt(port);
    await once(socket, 'connect');
    await closed(attempt(hole));
    expect(socket.destroyed).toBe(false);
    for (const end of ends) end();
  });
});
