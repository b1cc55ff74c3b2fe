/**
 * The process that runs the PKCS#11 module. A process and not a thread: a thread that hangs in native code can be
 * neither stopped nor left behind, and a module that crashes would take the server with it. It does what messages
 * ask, ends when the server does, and is the only one that ever reads the PIN.
 */

import { nativeAddon } from '../../runtime/native.ts';
import { TokenFault } from './pkcs11-faults.ts';
import { faultOf, TokenModule } from './pkcs11-module.ts';
import type {
  AnswerMessage,
  ConnectRequest,
  Operation,
  Operations,
  RequestMessage,
  TokenFacts,
} from './pkcs11-protocol.ts';
import { OpenToken } from './pkcs11-token.ts';

// Here the PIN is in memory, beside the code of others that may crash.
if (process.platform === 'linux') nativeAddon().forbidCoreDumps();

let module: TokenModule | undefined;
let connected: { readonly generation: number; readonly token: OpenToken } | undefined;
/** What is under way in the module. */
const underWay = new Set<Promise<unknown>>();

/** Sessions must not be closed under a thread that uses one: modules have crashed of it. */
async function untilNothingIsUnderWay(): Promise<void> {
  await Promise.allSettled([...underWay]);
}

async function connect(request: ConnectRequest, generation: number): Promise<TokenFacts> {
  const before = connected;
  connected = undefined;
  await untilNothingIsUnderWay();
  before?.token.close();
  module ??= await TokenModule.load(request.settings.module);
  if (request.rung === 'reinitialize') module.finalize();
  module.initialize();
  const { token, facts } = await OpenToken.open(module, request);
  connected = { generation, token };
  return facts;
}

async function close(): Promise<undefined> {
  await untilNothingIsUnderWay();
  connected?.token.close();
  module?.finalize();
}

function tokenOf(generation: number): OpenToken {
  if (connected?.generation === generation) return connected.token;
  throw new TokenFault({
    name: 'CKR_SESSION_HANDLE_INVALID',
    method: '',
    detail: 'of an earlier connection',
  });
}

type Performers = {
  readonly [Op in Operation]: (
    request: Operations[Op]['request'],
    generation: number,
  ) => Operations[Op]['answer'] | Promise<Operations[Op]['answer']>;
};

const performers: Performers = {
  connect,
  sign: (request, generation) => tokenOf(generation).sign(request),
  list: (_request, generation) => tokenOf(generation).list(),
  generate: (request, generation) => tokenOf(generation).generate(request),
  destroy: (request, generation) => tokenOf(generation).destroy(request),
  ping: (_request, generation) => tokenOf(generation).ping(),
  close,
};

async function perform<Op extends Operation>(message: RequestMessage<Op>): Promise<AnswerMessage> {
  const { number, operation, generation, request } = message;
  try {
    const performer: Performers[Op] = performers[operation];
    return { number, answer: await performer(request, generation) };
  } catch (error) {
    return { number, fault: faultOf(error).fault };
  }
}

process.on('message', (message: RequestMessage) => {
  const work = perform(message);
  if (message.operation !== 'connect' && message.operation !== 'close') {
    underWay.add(work);
    void work.finally(() => underWay.delete(work));
  }
  void work.then((answer) => {
    process.send?.(answer, undefined, {}, () => {
      if (message.operation === 'close') process.exit(0);
    });
  });
});
// Ctrl-C reaches the whole process group: the server still has to sign until it has stopped.
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => undefined);
// The server is gone.
process.on('disconnect', () => process.exit(0));
