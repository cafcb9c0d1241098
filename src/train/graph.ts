/**
 * A tape as training sees it. The tape overwrites its buffers in place; here every write makes a new version, so that
 * a backward operation finds the numbers that its forward one read. The operations are then cut into segments at
 * points where only the residual stream is alive: what stands before the first layer, one segment a layer, and the
 * head that makes logits. Keys and values cross from row to row inside a layer, nothing else does: every other
 * operation works row by row (experts group the rows that they find), which is what lets a layer run in chunks along
 * the sequence.
 */
import { MillraceError } from "../errors.js";
import type { BufferRef, Op, RopeRef, RouteRef, Tape, VectorRef, WeightRef } from "../tape/tape.js";

/** What a buffer holds between two writes: `perToken` rows for each row of the batch, or one in all where that is 0. */
export interface Version {
  readonly id: number;
  readonly width: number;
  readonly perToken: number;
}

/** Where rows go that visit several experts (Grouping of backends/training.ts). */
export interface Route {
  /** [rows, perToken] each. */
  readonly weights: Version;
  readonly places: Version;
  /** [1, experts + 1] */
  readonly starts: Version;
}

type OpOf<Name extends Op["op"]> = Extract<Op, { op: Name }>;

/** An operation over versions. `onto`: the version that the result is added to, which no later operation reads. */
export type Node =
  | { readonly op: "embed"; readonly weight: WeightRef; readonly scale: number; readonly out: Version }
  | {
      readonly op: "rmsNorm";
      readonly x: Version;
      readonly weight: VectorRef | null;
      readonly width: number;
      readonly epsilon: number;
      readonly out: Version;
    }
  | {
      readonly op: "matmul";
      readonly x: Version;
      readonly weight: WeightRef;
      readonly bias: VectorRef | null;
      readonly onto: Version | null;
      readonly out: Version;
    }
  | {
      readonly op: "rope";
      readonly x: Version;
      readonly headWidth: number;
      readonly rope: RopeRef;
      readonly out: Version;
    }
  | { readonly op: "append"; readonly k: Version; readonly v: Version }
  | {
      readonly op: "attention";
      readonly layer: number;
      readonly q: Version;
      readonly k: Version;
      readonly v: Version;
      readonly numHeads: number;
      readonly numKvHeads: number;
      readonly headWidth: number;
      readonly scale: number;
      readonly softcap: number;
      readonly window: number | null;
      /** First keys of the sequence that are seen beside the window. */
      readonly sinks: number;
      readonly out: Version;
      /** Per query head. */
      readonly logSum: Version;
    }
  /** Two attentions of the layer in shares that its gates say, one for each kv head: x times the gate, y times the rest. */
  | {
      readonly op: "blend";
      readonly x: Version;
      readonly y: Version;
      readonly layer: number;
      readonly out: Version;
    }
  | {
      readonly op: "glu";
      readonly gate: Version;
      readonly up: Version;
      readonly activation: OpOf<"glu">["activation"];
      readonly out: Version;
    }
  | { readonly op: "add"; readonly x: Version; readonly onto: Version; readonly out: Version }
  /** `out` are the weights; the places and starts of `to` are made too. */
  | {
      readonly op: "route";
      readonly logits: Version;
      readonly normalize: boolean;
      readonly to: Route;
      readonly out: Version;
    }
  /** Rows of `out` are grouped by expert, and so are those of x where it has several per token. */
  | {
      readonly op: "matmulExperts";
      readonly x: Version;
      readonly weight: WeightRef;
      readonly route: Route;
      readonly out: Version;
    }
  | {
      readonly op: "combine";
      readonly x: Version;
      readonly route: Route;
      readonly onto: Version;
      readonly out: Version;
    };

/** A run of operations between two points where only the residual stream is alive. */
export interface Segment {
  readonly nodes: readonly Node[];
  /** The residual stream before and after; the head's output are the logits. */
  readonly input: Version;
  readonly output: Version;
}

export interface Graph {
  /** The embedding, whose ids are its input. */
  readonly entry: { readonly nodes: readonly Node[]; readonly output: Version };
  readonly layers: readonly Segment[];
  /** Row-wise operations only. */
  readonly head: Segment;
}

/** Versions that a node reads. */
export function readsOf(node: Node): readonly Version[] {
  switch (node.op) {
    case "embed":
      return [];
    case "rmsNorm":
    case "rope":
      return [node.x];
    case "matmul":
      return node.onto ? [node.x, node.onto] : [node.x];
    case "append":
      return [node.k, node.v];
    case "attention":
      return [node.q, node.k, node.v];
    case "blend":
      return [node.x, node.y];
    case "glu":
      return [node.gate, node.up];
    case "add":
      return [node.x, node.onto];
    case "route":
      return [node.logits];
    case "matmulExperts": {
      const { places, starts } = node.route;
      return isGrouped(node.x) ? [node.x, starts] : [node.x, places, starts];
    }
    case "combine":
      return [node.x, node.route.weights, node.route.places, node.onto];
  }
}

/** Whether a version's rows are those of the experts that tokens visit. */
export const isGrouped = ({ perToken }: Version): boolean => perToken > 1;

/** Versions that a node makes. */
export function writesOf(node: Node): readonly Version[] {
  if (node.op === "append") return [];
  if (node.op === "route") return [node.out, node.to.places, node.to.starts];
  return node.op === "attention" ? [node.out, node.logSum] : [node.out];
}

/** Throws UNSUPPORTED_ARCHITECTURE where the tape holds what training does not know. */
export function buildGraph(tape: Tape): Graph {
  const { nodes, logits, headAt } = toNodes(tape);
  const atoms = cut(nodes.slice(0, headAt));
  const firstLayer = atoms.findIndex(hasAttention);
  if (firstLayer < 1) throw unsupported("a tape whose first layer does not stand behind an embedding");
  const entry = merge(atoms.slice(0, firstLayer));
  if (entry.some(({ op }) => op !== "embed")) throw unsupported("operations between embedding and layers");
  // A layer is its attention and all that follows up to the next one's.
  const starts = atoms.flatMap((atom, i) => (hasAttention(atom) ? [i] : []));
  const layers: Segment[] = [];
  let stream = lastWrite(entry);
  const entryOutput = stream;
  for (const [i, start] of starts.entries()) {
    const nodesOfLayer = merge(atoms.slice(start, starts[i + 1]));
    if (nodesOfLayer.filter(({ op }) => op === "append" || op === "attention").length !== 2) {
      throw unsupported("a layer with more than one attention");
    }
    const output = lastWrite(nodesOfLayer);
    layers.push({ nodes: nodesOfLayer, input: stream, output });
    stream = output;
  }
  const head = { nodes: nodes.slice(headAt), input: stream, output: logits };
  const crossing = head.nodes.find(({ op }) => op !== "rmsNorm" && op !== "matmul" && op !== "add");
  if (crossing) throw unsupported(`"${crossing.op}" behind the last layer`);
  return { entry: { nodes: entry, output: entryOutput }, layers, head };
}

function unsupported(what: string): MillraceError {
  return new MillraceError(
    "UNSUPPORTED_ARCHITECTURE",
    `Training does not know ${what}. It knows decoders, dense or with experts: choose a model of such an architecture.`,
    { what },
  );
}

/** Renames buffers to versions. `headAt` is the node after `select`, which keeps every row in training. */
function toNodes(tape: Tape): { nodes: Node[]; logits: Version; headAt: number } {
  const nodes: Node[] = [];
  const current = new Map<number, Version>();
  const stored = new Map<number, { k: Version; v: Version }>();
  const routes = new Map<RouteRef, Route>();
  let count = 0;
  const make = (width: number, perToken = 1): Version => ({ id: count++, width, perToken });
  const read = ({ id }: BufferRef): Version => {
    const version = current.get(id);
    if (!version) throw unsupported(`a read of buffer ${id} before any write`);
    return version;
  };
  const write = (buffer: BufferRef, perToken?: number): Version => {
    const version = make(buffer.width, perToken);
    current.set(buffer.id, version);
    return version;
  };
  let headAt = -1;
  for (const op of tape.ops) {
    // No loss is made of states.
    if ("out" in op && op.out.rows === "states") continue;
    switch (op.op) {
      case "embed":
        nodes.push({ op: "embed", weight: op.weight, scale: op.scale, out: write(op.out) });
        break;
      case "rmsNorm": {
        const { weight, width, epsilon } = op;
        const x = read(op.x);
        nodes.push({ op: "rmsNorm", x, weight, width, epsilon, out: write(op.out) });
        break;
      }
      case "matmul": {
        const { weight, bias } = op;
        const x = read(op.x);
        const onto = op.accumulate ? read(op.out) : null;
        nodes.push({ op: "matmul", x, weight, bias, onto, out: write(op.out) });
        break;
      }
      case "rope": {
        const { headWidth, rope } = op;
        const x = read(op.x);
        nodes.push({ op: "rope", x, headWidth, rope, out: write(op.x) });
        break;
      }
      case "append": {
        const [k, v] = [read(op.k), read(op.v)];
        stored.set(op.layer, { k, v });
        nodes.push({ op: "append", k, v });
        break;
      }
      case "attention": {
        const { numHeads, scale, softcap, window, layer } = op;
        const { numKvHeads, headWidth } = tape.kv[layer]!;
        const q = read(op.q);
        const shape = { layer, numHeads, numKvHeads, headWidth, scale, softcap, window, sinks: 0 };
        const out = write(op.out);
        nodes.push({ op: "attention", q, ...stored.get(layer)!, ...shape, out, logSum: make(numHeads) });
        break;
      }
      case "glu": {
        const [gate, up] = [read(op.gate), read(op.up)];
        const out = write(op.out, gate.perToken);
        nodes.push({ op: "glu", gate, up, activation: op.activation, out });
        break;
      }
      case "add": {
        const [x, onto] = [read(op.x), read(op.out)];
        nodes.push({ op: "add", x, onto, out: write(op.out) });
        break;
      }
      case "route": {
        const { experts, perToken } = op.route;
        const logits = read(op.logits);
        const to = { weights: make(perToken), places: make(perToken), starts: make(experts + 1, 0) };
        routes.set(op.route, to);
        nodes.push({ op: "route", logits, normalize: op.normalize, to, out: to.weights });
        break;
      }
      case "matmulExperts": {
        const x = read(op.x);
        const out = write(op.out, op.route.perToken);
        nodes.push({ op: "matmulExperts", x, weight: op.weight, route: routes.get(op.route)!, out });
        break;
      }
      case "combine": {
        const [x, onto] = [read(op.x), read(op.out)];
        nodes.push({ op: "combine", x, route: routes.get(op.route)!, onto, out: write(op.out) });
        break;
      }
      case "select":
        current.set(op.out.id, read(op.x));
        headAt = nodes.length;
        break;
      default:
        throw unsupported(`the operation "${op.op}"`);
    }
  }
  if (headAt < 0) throw unsupported('a tape without "select"');
  return { nodes, logits: read(tape.logits), headAt };
}

/** Splits the nodes wherever one version alone is read later on. */
function cut(nodes: readonly Node[]): Node[][] {
  const lastRead = new Map<Version, number>();
  nodes.forEach((node, i) => {
    for (const version of readsOf(node)) lastRead.set(version, i);
  });
  const atoms: Node[][] = [[]];
  const alive = new Set<Version>();
  nodes.forEach((node, i) => {
    atoms.at(-1)!.push(node);
    for (const version of writesOf(node)) if ((lastRead.get(version) ?? -1) > i) alive.add(version);
    for (const version of readsOf(node)) if (lastRead.get(version) === i) alive.delete(version);
    if (alive.size <= 1 && i + 1 < nodes.length) atoms.push([]);
  });
  return atoms;
}

const hasAttention = (atom: readonly Node[]): boolean => atom.some(({ op }) => op === "attention");

const merge = (atoms: readonly (readonly Node[])[]): Node[] => atoms.flat();

function lastWrite(nodes: readonly Node[]): Version {
  const version = nodes.flatMap(writesOf).at(-1);
  if (!version) throw unsupported("a tape without operations");
  return version;
}
