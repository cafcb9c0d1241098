import { describe, expect, test } from "vitest";
import type { Op, Tape } from "../tape/tape.js";
import type { Backend, Program } from "./contract.js";
import { createReference } from "./reference/index.js";
import { answer, selfCheck } from "./selfcheck.js";
import { ANSWERS } from "./selfcheck-answers.js";

/** A backend that computes as the reference does, over another tape than the one it was given. */
function wrong(changeTape: (tape: Tape) => Tape, changeProgram = (program: Program) => program): Backend {
  const right = createReference();
  return {
    name: right.name,
    description: "deliberately wrong",
    numThreads: 1,
    plan: right.plan.bind(right),
    allocate: right.allocate.bind(right),
    load: right.load.bind(right),
    copy: right.copy.bind(right),
    dispose: right.dispose.bind(right),
    compile: async (tape, weights, limits) =>
      changeProgram(await right.compile(changeTape(tape), weights, limits)),
  };
}

const same = (tape: Tape): Tape => tape;

/** The tape that selfCheck writes. */
async function checkedTape(): Promise<Tape> {
  let seen: Tape | undefined;
  await selfCheck(
    wrong((tape) => {
      seen = tape;
      return tape;
    }),
  );
  return seen!;
}

/** What the failing check says. */
async function failure(backend: Backend): Promise<{ op: string; message: string }> {
  try {
    await selfCheck(backend);
  } catch (error) {
    const { code, details, message } = error as { code: string; details: { op: string }; message: string };
    expect(code).toBe("SELF_CHECK_FAILED");
    expect(message).toMatch(/what it wrote is \S+, expected -?[0-9.]+\./);
    return { op: details.op, message };
  }
  throw new Error("the self-check passed");
}

describe("self-check", () => {
  test("passes a right backend", () => selfCheck(createReference()));

  test("knows the answers of the reference", async () => {
    const got = await answer(createReference());
    const rounded = [...got].map(([op, runs]) => [
      op,
      runs.map((run) => run.map((x) => Number(x.toPrecision(8)))),
    ]);
    // Where the script changes on purpose, this object is the new table.
    expect(Object.fromEntries(rounded)).toEqual(ANSWERS);
  });

  test("holds every op of the tape language", async () => {
    const tape = await checkedTape();
    const names = new Set(tape.ops.map(({ op }) => op));
    const all: Record<Op["op"], true> = {
      embed: true,
      rmsNorm: true,
      matmul: true,
      rope: true,
      append: true,
      attention: true,
      glu: true,
      add: true,
      select: true,
      route: true,
      matmulExperts: true,
      combine: true,
      lowRank: true,
    };
    expect([...names].sort()).toEqual(Object.keys(all).sort());
  });

  test("catches every op that is left out", async () => {
    const tape = await checkedTape();
    const inputs = tape.ops.filter(({ op }) => op === "embed").slice(2);
    for (const [index, left] of tape.ops.entries()) {
      if (inputs.includes(left)) continue; // more of what the first two are
      const { op } = await failure(
        wrong((whole) => ({ ...whole, ops: whole.ops.filter((_, i) => i !== index) })),
      );
      // An op without which nothing is written is named itself; of an input or a route, the op that reads it.
      const reader = { embed: /./, append: /attention/, attention: /attention/, route: /matmulExperts/ };
      expect(op).toMatch(reader[left.op as keyof typeof reader] ?? new RegExp(`^${left.op}`));
    }
  });

  const broken: [string, RegExp, (op: Op) => Op][] = [
    ["rmsNorm without its weight", /^rmsNorm/, (op) => (op.op === "rmsNorm" ? { ...op, weight: null } : op)],
    ["a rope of the other style", /^rope/, (op) => otherStyle(op)],
    [
      "attention without a window",
      /f16 pages/,
      (op) => (op.op === "attention" ? { ...op, window: null } : op),
    ],
    ["attention without a cap", /int8 pages/, (op) => (op.op === "attention" ? { ...op, softcap: 0 } : op)],
    [
      "attention that moves no segment",
      /f32 pages/,
      (op) => (op.op === "attention" ? { ...op, rope: null } : op),
    ],
    [
      "a scale that is 0.1 % off",
      /f32 pages/,
      (op) => (op.op === "attention" ? { ...op, scale: op.scale * 1.001 } : op),
    ],
    [
      "another gelu",
      /^glu \(gelu\)/,
      (op) => (op.op === "glu" && op.activation === "gelu" ? { ...op, activation: "gelu_tanh" } : op),
    ],
    ["an embedding that is scaled", /^embed/, (op) => (op.op === "embed" ? { ...op, scale: 1.001 } : op)],
    [
      "routes without normalisation",
      /^combine/,
      (op) => (op.op === "route" ? { ...op, normalize: false } : op),
    ],
  ];
  for (const [name, expected, change] of broken) {
    test(`catches ${name}`, async () => {
      const { op } = await failure(wrong((tape) => ({ ...tape, ops: tape.ops.map(change) })));
      expect(op).toMatch(expected);
    });
  }

  test("catches one wrong element in each op's output, in either run", async () => {
    // What a right program lets read, by run: played back, it costs nothing to spoil one element after the other.
    const runs: Map<number, Float32Array>[] = [];
    await selfCheck(
      wrong(same, (program) => ({
        run: (step) => {
          runs.push(new Map());
          return program.run(step);
        },
        logits: () => program.logits(),
        states: () => program.states(),
        read(buffer) {
          const values = program.read(buffer).slice();
          runs.at(-1)!.set(buffer, values);
          return values;
        },
        dispose: () => program.dispose(),
      })),
    );
    const spoilt = (wrongRun: number, wrongBuffer: number, index: number): Backend => {
      let run = -1;
      return wrong(same, (program) => ({
        run: async () => void run++,
        logits: () => program.logits(),
        states: () => program.states(),
        read(buffer) {
          const values = runs[run]!.get(buffer)!.slice();
          if (run === wrongRun && buffer === wrongBuffer) {
            values[index % values.length]! += 2e-3 * values.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
          }
          return values;
        },
        dispose: () => program.dispose(),
      }));
    };
    expect(runs).toHaveLength(2);
    const caught = new Set<string>();
    for (const [run, buffers] of runs.entries()) {
      for (const [i, buffer] of [...buffers.keys()].entries()) {
        caught.add((await failure(spoilt(run, buffer, 7 + 131 * i))).op);
      }
    }
    expect([...caught].sort()).toEqual(Object.keys(ANSWERS).sort());
  });

  test("does not pass what is not a number", async () => {
    const { op } = await failure(
      wrong(same, (program) => ({
        run: (step) => program.run(step),
        logits: () => program.logits(),
        states: () => program.states(),
        read: (buffer) => program.read(buffer).map(() => Number.NaN),
        dispose: () => program.dispose(),
      })),
    );
    expect(op).toBe("embed");
  });
});

function otherStyle(op: Op): Op {
  if (op.op !== "rope") return op;
  const style = op.rope.style === "half" ? "interleaved" : "half";
  return { ...op, rope: { ...op.rope, style } };
}
