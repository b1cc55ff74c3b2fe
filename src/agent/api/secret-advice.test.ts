import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { testSecret, troubled } from '../../testing/proxy-status.ts';
import { parseSdsNames } from './sds-names.ts';
import { nextStepFor } from './secret-advice.ts';

const names = parseSdsNames({
  names: { defaultSvid: 'default', ownBundle: 'ROOTCA', allBundles: 'ALL' },
  aliases: { 'frontend-cert': 'spiffe://example.org/frontend' },
  fileRoots: {},
});
const context = {
  trustDomain: TrustDomain.parse('example.org'),
  agentId: SpiffeId.parse('spiffe://example.org/spire/agent/a'),
  names,
  selectors: ['unix:gid:7', 'unix:uid:1001'],
};
const below = '--parent spiffe://example.org/spire/agent/a --selector unix:uid:1001';

const adviceFor = (name: string, held: string, change: Partial<typeof context> = {}) =>
  nextStepFor(testSecret({ name, held }), { ...context, ...change });

describe('a secret that is held', () => {
  it.each([
    {
      name: 'default',
      held: 'no registration entry',
      says: `signet entry create --spiffe-id spiffe://example.org/NAME ${below}`,
    },
    {
      name: 'ALL',
      held: 'no registration entry',
      says: `signet entry create --spiffe-id spiffe://example.org/NAME ${below}`,
    },
    {
      name: 'spiffe://example.org/web?key=ec-p384',
      held: 'not entitled',
      says: `signet entry create --spiffe-id spiffe://example.org/web ${below}`,
    },
    {
      name: 'frontend-cert',
      held: 'not entitled',
      says: `signet entry create --spiffe-id spiffe://example.org/frontend ${below}`,
    },
    { name: 'hint:a b', held: 'not entitled', says: `${below} --hint 'a b'` },
    {
      name: 'spiffe://other.org',
      held: 'not entitled',
      says: 'signet entry update --id ENTRY-ID --federates-with other.org',
    },
    {
      name: 'spiffe://other.org/web',
      held: 'not entitled',
      says: 'identities are those of spiffe://example.org/',
    },
    { name: 'spiffe://example.org/spire/server', held: 'not entitled', says: 'no workload here can have it' },
    { name: 'file-cert:/x', held: 'unknown name', says: 'default, ROOTCA, ALL, frontend-cert' },
    { name: 'default', held: 'agent is starting', says: 'signet health --role agent' },
    { name: 'default', held: 'not signed yet', says: 'signet health --role agent' },
    { name: 'default', held: 'signing failed', says: 'signet health --role agent' },
    { name: 'ALL', held: 'no bundle yet', says: 'signet health --role agent' },
    { name: 'spiffe://other.org', held: 'bundle gone', says: 'signet bundle set' },
    { name: 'file-root:system', held: 'file not read yet', says: 'sds.fileRoots' },
    { name: 'default', held: 'the key does not fit the certificate', says: "the agent's log" },
    // No reason is found where objects keep their own things.
    { name: 'default', held: 'constructor', says: "the agent's log" },
  ])('as "$name" because "$held" has its next step', ({ name, held, says }) => {
    expect(adviceFor(name, held)).toContain(says);
  });

  it('has it before the agent has joined, and for a process without selectors', () => {
    const nobody = { ...context, agentId: undefined, selectors: [] };
    const advice = nextStepFor(testSecret({ held: 'no registration entry' }), nobody);
    expect(advice).toContain('--spiffe-id spiffe://example.org/NAME --selector TYPE:VALUE');
    expect(advice).not.toContain('--parent');
  });
});

describe('a command that is proposed', () => {
  it.each([
    { name: 'a label with a command in it', selectors: ['docker:label:a:$(touch x)`id`'] },
    { name: 'a label with quotes', selectors: [`docker:label:it's "a" \\ b; rm -rf *`] },
    { name: 'a path in another script', selectors: ['unix:path:/opt/größe'] },
    { name: 'a hint with quotes', selectors: ['unix:uid:1'], secret: `hint:'; echo "$HOME` },
  ])('keeps the words it is made of: $name', ({ selectors, secret = 'default' }) => {
    const advice = adviceFor(secret, 'no registration entry', { selectors });
    const command = advice.slice(advice.indexOf('signet entry create'));
    const words = execFileSync('sh', ['-c', `printf '%s\\n' ${command}`], { encoding: 'utf8' }).split('\n');
    expect(words).toContain(selectors[0]);
    if (secret !== 'default') expect(words).toContain(secret.slice('hint:'.length));
    expect(words).toHaveLength(secret === 'default' ? 10 : 12);
  });

  it('never has a character that a terminal obeys', () => {
    const selectors = ['docker:label:a:\u001b[2J', 'unix:path:/bin/ok'];
    const advice = adviceFor('default', 'no registration entry', { selectors });
    expect(advice).toContain('--selector unix:path:/bin/ok');
    expect(adviceFor('hint:\u202ex', 'not entitled')).not.toMatch(/[\p{Cc}\p{Cf}]/u);
  });
});

it.each([
  { name: 'refused', secret: troubled.refused, says: 'another secret of this proxy' },
  { name: 'refused after another one', secret: troubled.refused, says: 'version 00000000000000aa' },
  {
    name: 'refused from the start',
    secret: { ...troubled.refused, acknowledged: undefined },
    says: 'with nothing under this name',
  },
  { name: 'stalled', secret: troubled.stalled, says: 'sds.closeStalled' },
])('a secret that is $name has its next step', ({ secret, says }) => {
  expect(nextStepFor(secret, context)).toContain(says);
});

it.each([{ secret: testSecret() }, { secret: troubled.pending }])(
  'a secret that is well needs nothing',
  ({ secret }) => {
    expect(nextStepFor(secret, context)).toBe('');
  },
);
