import { stat } from 'node:fs/promises';
import { errorText } from '../../runtime/error.ts';
import { readPrivateFile } from '../../runtime/private-file.ts';
import { TokenFault } from './pkcs11-faults.ts';

const pinMaxBytes = 255;

/** Reads the PIN, which only the worker does; throws TokenFault `PIN_FILE_UNUSABLE` without any of its content. */
export async function readPin(path: string): Promise<{ readonly pin: string; readonly identity: string }> {
  const identity = await pinFileIdentity(path);
  const content = await readPrivateFile(path).catch((error: unknown) => {
    throw unusable(errorText(error));
  });
  if (content === undefined || identity === undefined) throw unusable(`"${path}" does not exist`);
  const pin = content.toString('utf8').replace(/\r?\n$/u, '');
  if (pin.length === 0 || content.length > pinMaxBytes || /[\r\n\0]/.test(pin)) {
    throw unusable(`"${path}" must hold one line of at most ${pinMaxBytes} bytes, the PIN`);
  }
  return { pin, identity };
}

/** Changes whenever the file is written or replaced, and says nothing of its content; undefined when it is missing. */
export async function pinFileIdentity(path: string): Promise<string | undefined> {
  const found = await stat(path, { bigint: true }).catch(() => undefined);
  return found && `${found.dev}:${found.ino}:${found.mtimeNs}:${found.ctimeNs}`;
}

function unusable(detail: string): TokenFault {
  return new TokenFault({ name: 'PIN_FILE_UNUSABLE', method: '', detail });
}
