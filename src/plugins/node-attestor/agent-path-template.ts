import { AppError } from '../../runtime/error.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';

/** What a template can name. */
export interface AgentPathVariables {
  /** By name, such as `Subject.CommonName`; undefined when this node has no such value. */
  find(name: string): string | undefined;
}

type Part = { readonly text: string } | { readonly variable: string };

/** Templates are a line of configuration. */
const maxTemplateLength = 1024;
/** Values that are the same for all nodes: these may stand in the first segment. */
const fixedVariables: ReadonlySet<string> = new Set(['PluginName', 'TrustDomain']);

/**
 * A template for the path of agents below `/spire/agent`, such as `/x509pop/{{ .Fingerprint }}`: SPIRE's
 * `agent_path_template` without Go's functions, pipelines and control structures. The value of a variable stays within
 * its segment, and the first segment is the same for all nodes: what a certificate says can neither add segments nor
 * reach the names of agents that were attested in another way.
 */
export class AgentPathTemplate {
  readonly #parts: readonly Part[];

  private constructor(parts: readonly Part[]) {
    this.#parts = parts;
  }

  /** `known` tells which variables there are. Throws `invalid-argument` that says what is wrong. */
  static parse(text: string, known: (variable: string) => boolean): AgentPathTemplate {
    if (text.length > maxTemplateLength) throw invalid(`longer than ${maxTemplateLength} characters`);
    if (!text.startsWith('/')) throw invalid('must start with "/"');
    const parts = partsOf(text);
    for (const part of parts) {
      if ('variable' in part && !known(part.variable)) throw invalid(`unknown variable ".${part.variable}"`);
    }
    const template = new AgentPathTemplate(parts);
    template.#requireSafeForm();
    // With sound values the path must be one; "x" stands for any.
    SpiffeId.of(
      TrustDomain.parse('x'),
      template.#join(() => 'x'),
    );
    return template;
  }

  /** The agent's path, `/spire/agent` included; throws `permission-denied` when a value is missing or unfit. */
  render(variables: AgentPathVariables): string {
    return `/spire/agent${this.#join((name) => fitting(name, variables.find(name)))}`;
  }

  #join(lookUp: (variable: string) => string): string {
    return this.#parts.map((part) => ('text' in part ? part.text : lookUp(part.variable))).join('');
  }

  #requireSafeForm(): void {
    const isOfNode = (part: Part) => 'variable' in part && !fixedVariables.has(part.variable);
    const firstOfNode = this.#parts.findIndex(isOfNode);
    const start = this.#parts.slice(0, firstOfNode).map((part) => ('text' in part ? part.text : 'x'));
    if (firstOfNode >= 0 && start.join('').includes('/', 1)) return;
    throw invalid(
      'must begin with a segment that is the same for all agents and go on with what tells them apart, such as /x509pop/{{ .Fingerprint }}',
    );
  }
}

/** Text and `{{ .Name }}` in turn. */
function partsOf(text: string): readonly Part[] {
  const parts: Part[] = [];
  for (const [index, piece] of text.split('{{').entries()) {
    const [action, after, ...more] = index === 0 ? ['', piece] : piece.split('}}');
    if (after === undefined || more.length > 0 || (index === 0 && piece.includes('}}')))
      throw invalid('"{{" and "}}" do not match');
    if (index > 0) parts.push({ variable: variableIn(action ?? '') });
    parts.push({ text: after });
  }
  return parts;
}

function variableIn(action: string): string {
  const name = /^\s*\.([A-Za-z]+(?:\.[A-Za-z0-9_-]+)*)\s*$/.exec(action)?.[1];
  if (name !== undefined) return name;
  throw invalid(
    `"{{${action.slice(0, 60)}}}" is not supported; expected one variable such as {{ .Fingerprint }}, without functions`,
  );
}

function fitting(name: string, value: string | undefined): string {
  if (value === undefined) throw unfit(`the certificate has no ${name}`);
  // A slash would add a segment, dots could climb out of one.
  if (/^[A-Za-z0-9_-][A-Za-z0-9._-]*$/.test(value)) return value;
  throw unfit(
    `${name} is ${JSON.stringify(value.slice(0, 100))}; in a path expected letters, digits, dots, dashes and underscores, no dot first`,
  );
}

function invalid(problem: string): AppError {
  return new AppError('invalid-argument', `agent path template: ${problem}`);
}

function unfit(problem: string): AppError {
  return new AppError('permission-denied', `failed to make spiffe id: ${problem}`);
}
