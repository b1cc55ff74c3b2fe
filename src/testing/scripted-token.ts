import { TokenFault } from '../plugins/key-manager/pkcs11-faults.ts';
import type { TokenWorker } from '../plugins/key-manager/pkcs11-process.ts';
import type { Operation, Operations, TokenFacts } from '../plugins/key-manager/pkcs11-protocol.ts';

const facts: TokenFacts = {
  label: 'ca',
  serial: '1',
  product: 'scripted',
  keyTypes: ['ec-p256'],
  keys: [],
  strays: [],
  pinFile: undefined,
};

/** A token whose workers answer as a script says: a fault for each name in it, then as if all were well. */
export class ScriptedToken {
  /** Faults of the next operations, by operation. */
  readonly faults: Record<Operation, string[]> = {
    connect: [],
    list: [],
    sign: [],
    generate: [],
    destroy: [],
    ping: [],
    close: [],
  };
  /** What was asked of all workers, such as `connect 1 reinitialize`. */
  readonly asked: string[] = [];
  /** How many workers were started. */
  workers = 0;
  /** Ends the newest worker. */
  killLast: () => void = () => undefined;

  readonly startWorker = (): TokenWorker => {
    this.workers += 1;
    let isGone = false;
    const { promise: gone, resolve } = Promise.withResolvers<void>();
    const end = () => {
      isGone = true;
      resolve();
    };
    this.killLast = end;
    return {
      gone,
      get isGone() {
        return isGone;
      },
      request: async <Op extends Operation>(operation: Op, generation: number, request: object) => {
        const rung = 'rung' in request ? ` ${request.rung}` : '';
        this.asked.push(`${operation} ${generation}${rung}`);
        const name = this.faults[operation].shift();
        if (name === 'NO_ANSWER' || name === 'WORKER_ENDED') end();
        if (name !== undefined) throw new TokenFault({ name, method: 'C_Test' });
        return answers[operation] as Operations[Op]['answer'];
      },
      kill: end,
      close: async () => end(),
    };
  };
}

const answers: { readonly [Op in Operation]: Operations[Op]['answer'] } = {
  connect: facts,
  list: { keys: [], strays: [] },
  sign: Buffer.from('signature'),
  generate: { id: '01', label: 'k', type: 'ec-p256', publicKey: Buffer.alloc(0) },
  destroy: 0,
  ping: undefined,
  close: undefined,
};
