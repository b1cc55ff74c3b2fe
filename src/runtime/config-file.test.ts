import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { z } from 'zod';
import { tempDir } from '../testing/temp-dir.ts';
import { duration, findDurationMs, parseConfig, readConfigFile, toYaml } from './config-file.ts';
import { AppError } from './error.ts';

const schema = z.strictObject({
  server: z.string(),
  port: z.int().min(1).max(65535).default(8081),
  renewEvery: duration.prefault('1h'),
  log: z.strictObject({ level: z.enum(['debug', 'info']).default('info') }).prefault({}),
  sds: z.strictObject({ names: z.array(z.strictObject({ alias: z.string() })).default([]) }).optional(),
  plugins: z.record(z.string(), z.unknown()).default({}),
  bundle: z
    .union([z.strictObject({ file: z.string() }), z.strictObject({ url: z.string() }), z.literal('none')])
    .default('none'),
});

/** What comes of a file with this text: the value, or the error's code and text without the directory. */
async function read(yaml: string | Uint8Array): Promise<unknown> {
  const path = join(tempDir(), 'agent.yaml');
  writeFileSync(path, yaml);
  try {
    return await readConfigFile(path, schema);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return `${error.code}: ${error.message.replaceAll(path, 'agent.yaml')}`;
  }
}

describe('a config file', () => {
  it('is read with defaults for what it leaves out', async () => {
    expect(await read('server: a:1\nrenewEvery: 15m\n')).toEqual({
      server: 'a:1',
      port: 8081,
      renewEvery: 900_000,
      log: { level: 'info' },
      plugins: {},
      bundle: 'none',
    });
  });

  const mistakes: readonly {
    readonly name: string;
    readonly yaml: string | Uint8Array;
    readonly error: string;
  }[] = [
    {
      name: 'an unknown key, with the nearest known one first',
      yaml: 'server: a\nprot: 1\n',
      error:
        'agent.yaml: prot: unknown key; did you mean "port"? expected one of port, log, sds, server, bundle, plugins, renewEvery',
    },
    {
      name: 'an unknown key deep inside, by its whole path',
      yaml: 'server: a\nsds:\n  names: [{alias: a}, {alais: b}]\n',
      error:
        'agent.yaml: sds.names[1].alias: missing; expected a text\nagent.yaml: sds.names[1].alais: unknown key; did you mean "alias"? expected one of alias',
    },
    {
      name: 'an unknown key in a branch of a choice',
      yaml: 'server: a\nbundle: {fiel: x}\n',
      error:
        'agent.yaml: bundle.file: missing; expected a text\nagent.yaml: bundle.fiel: unknown key; did you mean "file"? expected one of file, url',
    },
    {
      name: 'a key that is like no other',
      yaml: 'server: a\nlog: {zzzzzz: 1}\n',
      error: 'agent.yaml: log.zzzzzz: unknown key; expected one of level',
    },
    { name: 'a missing key', yaml: 'port: 1\n', error: 'agent.yaml: server: missing; expected a text' },
    {
      name: 'a wrong type, without the value, which may be a secret',
      yaml: 'server: 12345\n',
      error: 'agent.yaml: server: expected a text, got a whole number',
    },
    {
      name: 'an empty value',
      yaml: 'server:\n',
      error: 'agent.yaml: server: expected a text, got an empty value',
    },
    {
      name: 'a map where a list belongs',
      yaml: 'server: a\nsds: {names: {}}\n',
      error: 'agent.yaml: sds.names: expected a list, got a map',
    },
    {
      name: 'a value outside a closed set',
      yaml: 'server: a\nlog: {level: loud}\n',
      error: 'agent.yaml: log.level: expected "debug" or "info", got "loud"',
    },
    {
      name: 'a number out of range',
      yaml: 'server: a\nport: 70000\n',
      error: 'agent.yaml: port: too big: expected number to be <=65535',
    },
    {
      name: 'a duration without a unit',
      yaml: 'server: a\nrenewEvery: 90\n',
      error:
        'agent.yaml: renewEvery: expected a duration such as "90s", "15m", "24h" or "7d", got a whole number',
    },
    {
      name: 'a duration in other units',
      yaml: 'server: a\nrenewEvery: 2w\n',
      error: 'agent.yaml: renewEvery: expected a duration such as "90s", "15m", "24h" or "7d", got "2w"',
    },
    { name: 'an empty file', yaml: '', error: 'agent.yaml: expected a map of settings, got an empty value' },
    { name: 'a list', yaml: '- a\n', error: 'agent.yaml: expected a map of settings, got a list' },
    {
      name: 'a key given twice',
      yaml: 'server: a\nserver: b\n',
      error: 'agent.yaml: Map keys must be unique at line 2, column 1',
    },
    {
      name: 'a key given twice deep inside',
      yaml: 'server: a\nlog:\n  level: info\n  level: debug\n',
      error: 'agent.yaml: Map keys must be unique at line 4, column 3',
    },
    {
      name: 'two documents',
      yaml: 'server: a\n---\nserver: b\n',
      error: 'agent.yaml: must be one YAML document',
    },
    {
      name: 'an unknown tag',
      yaml: 'server: !env HOME\n',
      error: 'agent.yaml: Unresolved tag: !env at line 1, column 9',
    },
    {
      name: 'bytes that are not UTF-8',
      yaml: new Uint8Array([0x73, 0x3a, 0x20, 0xff]),
      error: 'agent.yaml: must be UTF-8 text',
    },
  ];
  it.each(mistakes)('is refused for $name', async ({ yaml, error }) => {
    expect(await read(yaml)).toBe(`invalid-argument: ${error}`);
  });

  it('is refused when aliases would make it explode', async () => {
    const levels = Array.from({ length: 12 }, (_, i) => `  a${i + 1}: &a${i + 1} [${`*a${i},`.repeat(10)}]`);
    const yaml = `server: a\nplugins:\n  a0: &a0 [x]\n${levels.join('\n')}\n`;
    expect(await read(yaml)).toMatch(/^invalid-argument: agent.yaml: Excessive alias count/);
  });

  it('cannot change the prototype of what is read', async () => {
    expect(await read('server: a\nplugins: {__proto__: {polluted: true}}\n')).not.toHaveProperty(
      'plugins.polluted',
    );
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });

  it('that does not exist is named, with what to do', async () => {
    const path = join(tempDir(), 'none.yaml');
    await expect(readConfigFile(path, schema)).rejects.toMatchObject({
      code: 'failed-precondition',
      message: `config file "${path}" does not exist; create it or name another one with --config`,
    });
  });

  it('that cannot be read is named', async () => {
    await expect(readConfigFile(tempDir(), schema)).rejects.toMatchObject({ code: 'failed-precondition' });
  });
});

describe('settings inside a file', () => {
  it('are reported with the path of where they are', () => {
    const where = 'agent.yaml: nodeAttestor.x509pop';
    expect(() =>
      parseConfig({ certFil: 'x' }, z.strictObject({ certFile: z.string().optional() }), where),
    ).toThrow(
      'agent.yaml: nodeAttestor.x509pop.certFil: unknown key; did you mean "certFile"? expected one of certFile',
    );
    expect(() => parseConfig(1, z.strictObject({}), where)).toThrow(
      'agent.yaml: nodeAttestor.x509pop: expected a map',
    );
  });

  it('name every unknown key by its path, whatever it is', () => {
    const names = fc.stringMatching(/^[a-z]{1,12}$/).filter((name) => name !== 'level');
    fc.assert(
      fc.property(fc.uniqueArray(names, { minLength: 1 }), (unknown) => {
        const value = { server: 'a', log: Object.fromEntries(unknown.map((name) => [name, 1])) };
        try {
          parseConfig(value, schema, 'f');
          expect.unreachable();
        } catch (error) {
          const lines = (error as Error).message.split('\n');
          expect(lines.map((line) => line.split(':')[1])).toEqual(unknown.map((name) => ` log.${name}`));
        }
      }),
    );
  });
});

describe('a duration', () => {
  const units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

  it('is a whole number and a unit', () => {
    fc.assert(
      fc.property(fc.nat({ max: 36_500 }), fc.constantFrom(...Object.entries(units)), (count, [unit, ms]) => {
        expect(findDurationMs(`${count}${unit}`)).toBe(count * ms);
      }),
    );
  });

  it('is nothing else', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        if (!/^\d+(ms|s|m|h|d)$/.test(text)) expect(findDurationMs(text)).toBeUndefined();
      }),
    );
    for (const text of [
      '',
      '5',
      's',
      '1.5h',
      '-1s',
      '1h30m',
      ' 1s',
      '1s ',
      '1s\n',
      '1S',
      '٣s',
      '36501d',
      `${'9'.repeat(40)}s`,
    ]) {
      expect({ text, ms: findDurationMs(text) }).toEqual({ text, ms: undefined });
    }
  });
});

describe('YAML that is written', () => {
  it('reads back as the same value, without aliases', () => {
    const shared = { a: 1 };
    expect(toYaml([shared, shared])).not.toContain('*');
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.integer(), fc.boolean())), (value) => {
        expect(parse(toYaml(value))).toEqual({ ...value });
      }),
    );
  });
});
