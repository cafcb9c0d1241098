import type { CodecName } from "../../src/cache/codecs/contract.js";
import { codecs } from "../../src/cache/codecs/index.js";
import { TestRandom } from "../support/random.js";
import { expectClose, expectSameBits } from "./compare.js";
import { type KvShape, kvBatch } from "./kv.js";
import { HEAD_WIDTHS } from "./rope.js";
import { Scene, type Stage } from "./scene.js";
import type { Suite } from "./suite.js";

/**
 * Pages are read back through the codec. f32 is exact, f16 has one right answer (nearest, ties to even); of int8 the
 * property is checked that no element is further off than half a step, a thousandth allowed for the f32 product.
 * Everything that lay in other slots stays as it was.
 */
export function appendCases(suite: Suite): void {
  for (const codec of ["f32", "f16", "int8"] as const) {
    HEAD_WIDTHS.forEach((headWidth, i) => {
      for (const groups of ["together", "apart"] as const) {
        const shape: KvShape = {
          numLayers: 2,
          numKvHeads: [1, 2, 4][(i + (groups === "apart" ? 1 : 0)) % 3]!,
          headWidth,
          codec,
          pageTokens: [16, 32, 64][i % 3]!,
          groups,
          spans: [
            { stored: 5, count: 3 },
            { stored: 0, count: 17 },
            { stored: 40, count: 1 },
          ],
        };
        suite.case(`${codec}, ${shape.numKvHeads} heads of ${headWidth}, lanes ${groups}`, () =>
          check(suite, shape),
        );
      }
    });
  }
}

async function check(suite: Suite, shape: KvShape): Promise<void> {
  const { numKvHeads, headWidth, numLayers } = shape;
  const random = new TestRandom(headWidth * 10 + numKvHeads);
  const { groups, batch, numPages, maxTokens } = kvBatch(random, shape);
  const width = numKvHeads * headWidth;
  const scene = new Scene();
  const inputs = Array.from({ length: numLayers }, () => {
    const keys = random.floats(maxTokens * width, 4);
    const values = random.floats(maxTokens * width, 4);
    keys.fill(0, 0, headWidth); // a head of zeros
    values.set([1e-9, 65504, -1e-5, 3, 5, 7, 9, 11], 0); // elements of very different size
    return { keys, values };
  });
  let last = scene.input(new Float32Array(maxTokens), 1);
  for (const [layer, { keys, values }] of inputs.entries()) {
    const k = scene.input(keys, width);
    last = scene.input(values, width);
    scene.tape.append({ layer, numKvHeads, headWidth, window: null }, k, last);
  }
  scene.finish(last);
  const stage = await scene.on(suite.backend, { maxTokens, groups, numPages });
  try {
    await stage.run(batch);
    let start = 0;
    for (const { count, tables } of batch.spans!) {
      for (const [g, table] of tables.entries()) {
        for (const [lane, { layer, head }] of groups[g]!.lanes.entries()) {
          const where = `layer ${layer} head ${head}`;
          for (let t = start; t < start + count; t++) {
            const at = t * width + head * headWidth;
            const got = load(stage, table, groups[g]!.lanes.length, lane, batch.slots![g]![t]!, headWidth);
            const want = inputs[layer]!;
            expectStored(
              table.codec,
              `${where} key of token ${t}`,
              got[0],
              want.keys.subarray(at, at + headWidth),
            );
            expectStored(
              table.codec,
              `${where} value of token ${t}`,
              got[1],
              want.values.subarray(at, at + headWidth),
            );
          }
          table.contents[lane]!.forEach((pair, slot) => {
            if (!pair) return;
            const got = load(stage, table, groups[g]!.lanes.length, lane, slot, headWidth);
            expectStored(table.codec, `${where} untouched key in slot ${slot}`, got[0], pair[0]);
            expectStored(table.codec, `${where} untouched value in slot ${slot}`, got[1], pair[1]);
          });
        }
      }
      start += count;
    }
  } finally {
    stage.dispose();
  }
}

function load(
  stage: Stage,
  table: { codec: CodecName; pageTokens: number; pageIds: Int32Array },
  lanes: number,
  lane: number,
  slot: number,
  headWidth: number,
): [Float32Array, Float32Array] {
  const page = stage.page(table.pageIds[Math.floor(slot / table.pageTokens) * lanes + lane]!);
  const pair: [Float32Array, Float32Array] = [new Float32Array(headWidth), new Float32Array(headWidth)];
  codecs[table.codec].load(page, slot % table.pageTokens, ...pair);
  return pair;
}

function expectStored(codec: CodecName, what: string, got: Float32Array, want: Float32Array): void {
  if (codec === "int8") {
    const step = want.reduce((max, x) => Math.max(max, Math.abs(x)), 0) / 127;
    expectClose(what, got, want, () => 0.5005 * step);
    return;
  }
  const page = new Uint8Array(codecs[codec].groupBytes(want.length));
  const [key, value] = [new Float32Array(want.length), new Float32Array(want.length)];
  codecs[codec].store(page, 0, want, want);
  codecs[codec].load(page, 0, key, value);
  expectSameBits(what, got, key);
}
