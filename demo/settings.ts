import { findEnvoy } from '../e2e/support/checkout.ts';

/** How the demo is to run. */
export interface Settings {
  /** After so many rotations of each certificate it ends by itself. */
  readonly goal: number;
  /** With two Envoys, or why without. */
  readonly envoy: true | { readonly missing: string };
}

/** Reads DEMO_ROTATIONS and DEMO_ENVOY, and looks for an Envoy; ends the process when that cannot be. */
export function readSettings(environment: Readonly<Record<string, string | undefined>>): Settings {
  if (process.platform !== 'linux') {
    return giveUp(
      `the demo needs Linux, this is ${process.platform}: the agent asks the kernel who is calling`,
    );
  }
  const { DEMO_ROTATIONS: rotations = '', DEMO_ENVOY: envoy = '' } = environment;
  if (!/^([1-9]\d{0,5})?$/.test(rotations)) {
    return giveUp(`DEMO_ROTATIONS: expected a number from 1 up, "${rotations}" came`);
  }
  if (envoy !== '' && envoy !== 'none') return giveUp(`DEMO_ENVOY: expected "none", "${envoy}" came`);
  return { goal: rotations === '' ? Infinity : Number(rotations), envoy: withEnvoy(envoy === 'none') };
}

function withEnvoy(isUnwanted: boolean): Settings['envoy'] {
  if (isUnwanted) return { missing: 'Without Envoy, as DEMO_ENVOY=none says' };
  if (findEnvoy() !== undefined) return true;
  return {
    missing: `There is no Envoy for ${process.platform} ${process.arch} here ("make setup" says more)`,
  };
}

function giveUp(problem: string): never {
  process.stderr.write(`demo: ${problem}\n`);
  process.exit(2);
}
