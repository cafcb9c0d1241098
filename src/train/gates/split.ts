/**
 * Attention in two: over all keys, and over the first and the newest ones alone, as a head of a bounded cache sees them.
 * A gate for each kv head says how much of either goes on (DuoAttention, arXiv 2410.10819).
 */
import type { Graph, Node, Segment } from "../graph.js";

/** What a head that streams sees. */
export interface Streaming {
  /** First tokens of the stream. */
  readonly sinks: number;
  /** Newest tokens, the query's own included. */
  readonly recent: number;
}

/**
 * The graph with gates in every layer that can tell the difference: one whose own sliding window is no longer than
 * `recent` cannot. Sinks lie outside a longer window as well.
 */
export function splitAttention(graph: Graph, streaming: Streaming): Graph {
  const split = (segment: Segment): Segment => ({
    ...segment,
    nodes: segment.nodes.flatMap((node) => splitNode(node, streaming)),
  });
  return { ...graph, layers: graph.layers.map(split) };
}

function splitNode(node: Node, { sinks, recent }: Streaming): Node[] {
  if (node.op !== "attention" || (node.window !== null && node.window <= recent)) return [node];
  const { layer, out } = node;
  const [all, some] = [{ ...out }, { ...out }];
  const seen = { window: recent, sinks: node.window === null ? sinks : 0 };
  return [
    { ...node, out: all },
    { ...node, ...seen, out: some, logSum: { ...node.logSum } },
    { op: "blend", x: all, y: some, layer, out },
  ];
}

/** The head of a graph up to what is multiplied into logits: the last hidden states, as the model norms them. */
export function hiddenStates({ head }: Graph): Segment {
  const matmul = head.nodes.findIndex(({ op }) => op === "matmul");
  const node = head.nodes[matmul];
  if (node?.op !== "matmul") throw new Error("A head without a matrix.");
  return { nodes: head.nodes.slice(0, matmul), input: head.input, output: node.x };
}
