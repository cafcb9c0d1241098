import type { TensorType } from "../../src/formats/checkpoint.js";
import { TestRandom } from "../support/random.js";
import { expectClose, expectSameBits } from "./compare.js";
import { exactActivations, productBounds } from "./matmul.js";
import { onBoth } from "./rows.js";
import { Scene } from "./scene.js";
import { EPSILON, type Suite } from "./suite.js";
import { randomWeight } from "./weights.js";

/**
 * route, matmulExperts and combine. What was chosen shows in what the experts give: a wrong expert is far outside
 * any bound. Products are bounded as in matmul.ts (exact activations); a combination of n experts by n + 16
 * roundings of the sum of its terms' sizes.
 */
export function expertCases(suite: Suite): void {
  const types: readonly TensorType[] = [
    "F32",
    "F16",
    "BF16",
    "Q4_0",
    "Q8_0",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_XS",
  ];
  types.forEach((type, i) => {
    const experts = [4, 8, 33][i % 3]!;
    const perToken = [1, 2, 4][(i + 1) % 3]!;
    const numTokens = [1, 7, 33][(i + 2) % 3]!;
    const name = `${type}, ${perToken} of ${experts} experts, ${numTokens} tokens`;
    suite.case(name, () => check(suite, { type, experts, perToken, numTokens, normalize: i % 2 === 0 }));
  });
  for (const numTokens of [1, 2, 16, 40]) {
    const shape = { type: "Q4_0" as const, experts: 8, perToken: 2, numTokens, normalize: true };
    suite.case(`Q4_0, 2 of 8 experts, ${numTokens} tokens`, () => check(suite, shape));
  }

  suite.case("ties go to the lower expert, one expert may take all tokens", async () => {
    const [experts, numTokens, width] = [8, 5, 32];
    const logits = new Float32Array(numTokens * experts);
    logits.fill(1, 0, 8); // all equal: 0 and 1 are taken
    logits.set([0, 2, 2, 2, 0, 0, 0, 0], 8); // 1 and 2
    logits.set([-80, -80, 90, -80, -80, -80, -80, 90], 16); // 2 and 7, the others round to nothing
    logits.set([0, 0, 0, 0, 0, 3, 0, 0], 24); // 5 and 0
    logits.set([0, 0, 0, 0, 0, 0, 0, 3], 32); // 7 and 0
    const chosen = [0, 1, 1, 2, 2, 7, 5, 0, 7, 0];
    const scene = new Scene();
    const route = scene.tape.route(scene.input(logits, experts), { perToken: 2, normalize: true });
    // Expert e gives the input's first element times e + 1.
    const data = new Float32Array(experts * width);
    for (let e = 0; e < experts; e++) data[e * width] = e + 1;
    const x = scene.input(new Float32Array(numTokens * width).fill(1), width);
    const out = scene.tape.matmulExperts(x, scene.matrix({ data, rows: 1, columns: width, experts }), route);
    scene.finish(x);
    await onBoth(suite, scene, numTokens, (got) =>
      expectSameBits(
        "experts taken",
        got.read(out),
        Float32Array.from(chosen, (e) => e + 1),
      ),
    );
  });
}

async function check(
  suite: Suite,
  shape: { type: TensorType; experts: number; perToken: number; numTokens: number; normalize: boolean },
): Promise<void> {
  const { type, experts, perToken, numTokens, normalize } = shape;
  const [rows, columns] = [50, 256];
  const random = new TestRandom(experts * 100 + numTokens);
  const scene = new Scene();
  const logits = random.floats(numTokens * experts, 4);
  const route = scene.tape.route(scene.input(logits, experts), { perToken, normalize });
  const { data, decoded } = randomWeight(random, type, experts * rows, columns);
  const weight = scene.matrix({ data, type, rows, columns, experts });
  const activations = exactActivations(random, numTokens, columns);
  const x = scene.input(activations, columns);
  const once = scene.tape.matmulExperts(x, weight, route);
  // Through identities, so that the second product reads a row per route and its input is still exact.
  const identity = new Float32Array(experts * columns * columns);
  for (let i = 0; i < experts * columns; i++) identity[i * columns + (i % columns)] = 1;
  const copies = scene.tape.matmulExperts(
    x,
    scene.matrix({ data: identity, rows: columns, columns, experts }),
    route,
  );
  const twice = scene.tape.matmulExperts(copies, weight, route);
  const before = random.floats(numTokens * rows);
  const combined = scene.input(before, rows);
  scene.tape.combine(once, route, combined);
  scene.finish(combined);

  const copied = Float32Array.from({ length: numTokens * perToken * columns }, (_, i) => {
    const a = Math.floor(i / columns);
    return activations[Math.floor(a / perToken) * columns + (i % columns)]!;
  });
  // The most that any expert's product may be off: the bound must not depend on which one was taken.
  const everyBound = productBounds(activations, decoded, columns, true);
  const bound = (index: number): number => {
    const token = Math.floor(Math.floor(index / rows) / perToken);
    let most = 0;
    for (let e = 0; e < experts; e++) {
      most = Math.max(most, everyBound[token * experts * rows + e * rows + (index % rows)]!);
    }
    return suite.slack * most;
  };
  await onBoth(suite, scene, numTokens, async (got, want) => {
    expectClose("product of token rows", got.read(once), want.read(once), bound);
    expectSameBits("identities", got.read(copies), copied);
    expectClose("product of route rows", got.read(twice), want.read(twice), bound);
    const products = want.read(once);
    expectClose("combination", got.read(combined), want.read(combined), (i) => {
      const [token, column] = [Math.floor(i / rows), i % rows];
      let size = Math.abs(before[i]!);
      let inherited = 0;
      for (let a = token * perToken; a < (token + 1) * perToken; a++) {
        size += Math.abs(products[a * rows + column]!);
        inherited = Math.max(inherited, bound(a * rows + column));
      }
      return suite.slack * ((perToken + 16) * EPSILON * size + inherited);
    });
    const whole = got.read(combined);
    const token = numTokens >> 1;
    await got.run({ tokens: [token], positions: [0] });
    expectSameBits("a token alone", got.read(combined), whole.subarray(token * rows, (token + 1) * rows));
  });
}
