/** The log of the harbour town as training data. */
import { BOS, CHAT_TEMPLATE, CONTROL_TOKENS, END } from "../world/control.js";
import { world } from "../world/world.js";
import { deriveSeed } from "./seeds.js";
import type { TrainingData } from "./training-data.js";
import { worldSource } from "./world-source.js";

export interface WorldDataOptions {
  /** Of the towns; a whole number from 0 on. */
  readonly seed: number;
  /** Factor on the loss of an answer's decisive words. Default: as in `worldSource`. */
  readonly answerWeight?: number;
}

/** Characters of the log that a tokenizer is trained on. */
const SAMPLE_CHARACTERS = 2 ** 22;

/** Windows of towns without end; held out are those of another seed. */
export function worldData({ seed, answerWeight }: WorldDataOptions): TrainingData {
  const weight = answerWeight === undefined ? {} : { answerWeight };
  return {
    name: `world, seed ${seed}${answerWeight === undefined ? "" : `, answers x ${answerWeight}`}`,
    tokenizer: {
      bos: BOS,
      eos: END,
      control: CONTROL_TOKENS.filter((name) => name !== BOS && name !== END),
      chatTemplate: CHAT_TEMPLATE,
    },
    *sample() {
      let left = SAMPLE_CHARACTERS;
      for (const { text } of world({ seed: deriveSeed(seed, "tokenizer") })) {
        yield text;
        left -= text.length;
        if (left <= 0) return;
      }
    },
    windows: async (tokenizer, windowLength) => ({
      train: worldSource(tokenizer, { windowLength, seed, ...weight }),
      heldOut: worldSource(tokenizer, { windowLength, seed: deriveSeed(seed, "held out"), ...weight }),
    }),
  };
}
