import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Sandbox } from './sandbox.ts';

/** What the application answers to a request: what it was asked, and by whom. */
export interface AppAnswer {
  readonly app: string;
  readonly path: string;
  /** SPIFFE ID of the caller, from x-forwarded-client-cert; undefined without that header. */
  readonly caller?: string;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
}

/**
 * A plain HTTP application, as it would sit behind a sidecar: `/stream` sends a line every 100 ms until the client
 * goes, every other path answers an `AppAnswer`. Returns its port on 127.0.0.1.
 */
export async function startApp(sandbox: Sandbox, name: string): Promise<number> {
  const server = createServer((request, response) => {
    if (request.url === '/stream') stream(response);
    else answer(name, request, response);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  sandbox.onDispose(() => {
    server.close();
    server.closeAllConnections();
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

function answer(app: string, request: IncomingMessage, response: ServerResponse): void {
  const { headers, url: path = '' } = request;
  const caller = callerOf(headers['x-forwarded-client-cert']);
  const body: AppAnswer = { app, path, headers, ...(caller === undefined ? {} : { caller }) };
  response.setHeader('content-type', 'application/json').end(JSON.stringify(body));
}

function stream(response: ServerResponse): void {
  response.write('line\n');
  const timer = setInterval(() => response.write('line\n'), 100);
  response.on('close', () => clearInterval(timer));
}

/** The `URI` of an x-forwarded-client-cert header that the sidecar has set: the caller's SPIFFE ID. */
function callerOf(header: string | readonly string[] | undefined): string | undefined {
  const text = typeof header === 'string' ? header : header?.join(',');
  return text === undefined ? undefined : /(?:^|[;,])URI=([^;,]*)/.exec(text)?.[1];
}
