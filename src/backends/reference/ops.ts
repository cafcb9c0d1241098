/**
 * What every op means, in plain loops: f32 buffers, sums in double precision. This file is the definition; the other
 * backends are held to it by the conformance suite. Ops as documented in tape/tape.ts, in the same order.
 */
import type { Op, RowKind } from "../../tape/tape.js";
import { rowsOf, rowsOfStep } from "../check.js";
import { ACTIVATIONS } from "./activations.js";
import { append, attention } from "./attention.js";
import { rotate } from "./rotate.js";
import type { Matrix, Run } from "./state.js";

type OpOf<Name extends Op["op"]> = Extract<Op, { op: Name }>;

type Execute = { readonly [Name in Op["op"]]: (run: Run, op: OpOf<Name>) => void };

/** Runs one op over the step's rows; mutates the op's `out` (or `x`, route, pages). */
export function execute<Name extends Op["op"]>(run: Run, op: OpOf<Name>): void {
  OPS[op.op as Name](run, op);
}

function embed(run: Run, { weight, scale, out }: OpOf<"embed">): void {
  const { data, columns } = run.weights[weight.id]!;
  const y = run.buffers[out.id]!;
  run.step.tokens.forEach((token, t) => {
    for (let c = 0; c < columns; c++) y[t * columns + c] = scale * data[token * columns + c]!;
  });
}

function rmsNorm(run: Run, { x, weight, width, epsilon, out }: OpOf<"rmsNorm">): void {
  const from = run.buffers[x.id]!;
  const to = run.buffers[out.id]!;
  const factors = weight && run.vectors[weight.id]!;
  const numRuns = (rows(run, x.rows) * x.width) / width;
  for (let r = 0; r < numRuns; r++) {
    let squares = 0;
    for (let i = r * width; i < (r + 1) * width; i++) squares += from[i]! * from[i]!;
    const inverse = 1 / Math.sqrt(squares / width + epsilon);
    for (let i = 0; i < width; i++)
      to[r * width + i] = from[r * width + i]! * inverse * (factors ? factors[i]! : 1);
  }
}

function matmul(run: Run, { x, weight, bias, accumulate, out }: OpOf<"matmul">): void {
  const matrix = run.weights[weight.id]!;
  const from = run.buffers[x.id]!;
  const to = run.buffers[out.id]!;
  const added = bias && run.vectors[bias.id]!;
  for (let r = 0; r < rows(run, x.rows); r++) {
    for (let i = 0; i < matrix.rows; i++) {
      const at = r * matrix.rows + i;
      to[at] = (accumulate ? to[at]! : 0) + dot(matrix, i, from, r * x.width) + (added ? added[i]! : 0);
    }
  }
}

function lowRank(run: Run, { x, pairs, out }: OpOf<"lowRank">): void {
  const from = run.buffers[x.id]!;
  const to = run.buffers[out.id]!;
  for (let r = 0; r < rows(run, x.rows); r++) {
    const token = x.rows === "outputs" ? run.step.outputs[r]! : r;
    const span = run.step.spans.find(({ start, count }) => token >= start && token < start + count);
    const pair = pairs.find(({ adapter }) => adapter === span?.adapter);
    if (!pair) continue;
    const down = { data: run.vectors[pair.down.id]!, rows: pair.rank, columns: x.width };
    const up = run.vectors[pair.up.id]!;
    const projected = Array.from({ length: pair.rank }, (_, j) => dot(down, j, from, r * x.width));
    for (let i = 0; i < out.width; i++) {
      let sum = to[r * out.width + i]!;
      projected.forEach((factor, j) => {
        sum += factor * up[j * out.width + i]!;
      });
      to[r * out.width + i] = sum;
    }
  }
}

function rope(run: Run, { x, headWidth, rope: spec }: OpOf<"rope">): void {
  const values = run.buffers[x.id]!;
  const table = run.ropes[spec.id]!;
  const numHeads = x.width / headWidth;
  for (let t = 0; t < run.step.tokens.length; t++) {
    for (let h = 0; h < numHeads; h++) rotate(values, (t * numHeads + h) * headWidth, spec, table, t);
  }
}

function glu(run: Run, { gate, up, activation, out }: OpOf<"glu">): void {
  const gates = run.buffers[gate.id]!;
  const ups = run.buffers[up.id]!;
  const to = run.buffers[out.id]!;
  const size = rows(run, gate.rows) * gate.width;
  for (let i = 0; i < size; i++) to[i] = ACTIVATIONS[activation].value(gates[i]!) * ups[i]!;
}

function add(run: Run, { x, out }: OpOf<"add">): void {
  const from = run.buffers[x.id]!;
  const to = run.buffers[out.id]!;
  const size = rows(run, x.rows) * x.width;
  for (let i = 0; i < size; i++) to[i] = to[i]! + from[i]!;
}

function select(run: Run, { x, out }: OpOf<"select">): void {
  const from = run.buffers[x.id]!;
  const to = run.buffers[out.id]!;
  const { outputs, states } = run.step;
  (out.rows === "states" ? states : outputs)?.forEach((t, r) => {
    to.set(from.subarray(t * x.width, (t + 1) * x.width), r * x.width);
  });
}

function route(run: Run, { logits, normalize, route: spec }: OpOf<"route">): void {
  const from = run.buffers[logits.id]!;
  const { ids, weights } = run.routes[spec.id]!;
  for (let t = 0; t < run.step.tokens.length; t++) {
    const row = [...from.subarray(t * spec.experts, (t + 1) * spec.experts)];
    const max = Math.max(...row);
    const exponentials = row.map((x) => Math.exp(x - max));
    const chosen = row.map((_, e) => e).sort((a, b) => row[b]! - row[a]! || a - b);
    chosen.length = spec.perToken;
    const total = (normalize ? chosen.map((e) => exponentials[e]!) : exponentials).reduce(
      (sum, p) => sum + p,
      0,
    );
    chosen.forEach((e, j) => {
      ids[t * spec.perToken + j] = e;
      weights[t * spec.perToken + j] = exponentials[e]! / total;
    });
  }
}

function matmulExperts(run: Run, { x, weight, route: spec, out }: OpOf<"matmulExperts">): void {
  const matrix = run.weights[weight.id]!;
  const from = run.buffers[x.id]!;
  const to = run.buffers[out.id]!;
  const { ids } = run.routes[spec.id]!;
  for (let a = 0; a < run.step.tokens.length * spec.perToken; a++) {
    const row = x.rows === "routes" ? a : Math.floor(a / spec.perToken);
    for (let i = 0; i < matrix.rows; i++) {
      to[a * matrix.rows + i] = dot(matrix, ids[a]! * matrix.rows + i, from, row * x.width);
    }
  }
}

function combine(run: Run, { x, route: spec, out }: OpOf<"combine">): void {
  const from = run.buffers[x.id]!;
  const to = run.buffers[out.id]!;
  const { weights } = run.routes[spec.id]!;
  for (let t = 0; t < run.step.tokens.length; t++) {
    for (let i = 0; i < x.width; i++) {
      let sum = to[t * x.width + i]!;
      for (let a = t * spec.perToken; a < (t + 1) * spec.perToken; a++)
        sum += weights[a]! * from[a * x.width + i]!;
      to[t * x.width + i] = sum;
    }
  }
}

const rows = (run: Run, kind: RowKind): number => rowsOf(run.tape, kind, rowsOfStep(run.step));

/** Row `row` of the matrix times the vector that starts at `at`. */
function dot({ data, columns }: Matrix, row: number, x: Float32Array, at: number): number {
  let sum = 0;
  for (let c = 0; c < columns; c++) sum += data[row * columns + c]! * x[at + c]!;
  return sum;
}

const OPS: Execute = {
  embed,
  rmsNorm,
  matmul,
  lowRank,
  rope,
  append,
  attention,
  glu,
  add,
  select,
  route,
  matmulExperts,
  combine,
};
