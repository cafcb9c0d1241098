/** The log of the harbour town as training data. */
import { BOS, CHAT_TEMPLATE, CONTROL_TOKENS, END } from "../world/control.js";
import { world } from "../world/world.js";
import { deriveSeed } from "./seeds.js";
import type { TrainingData } from "./training-data.js";
import type { WorldCourse } from "./world-course.js";
import { worldSource } from "./world-source.js";

export interface WorldDataOptions {
  /** Of the towns; a whole number from 0 on. */
  readonly seed: number;
  /** Factor on the loss of an answer's decisive words. Default: as in `worldSource`. */
  readonly answerWeight?: number;
  /** What windows ask. Default: as in `worldSource`. */
  readonly course?: WorldCourse;
}

/** Characters of the log that a tokenizer is trained on. */
const SAMPLE_CHARACTERS = 2 ** 22;

/** Windows of towns without end; held out are those of another seed. */
export function worldData(options: WorldDataOptions): TrainingData {
  const { seed, ...asked } = options;
  const { answerWeight, course } = options;
  const weighed = answerWeight === undefined ? null : `answers x ${answerWeight}`;
  const asking = course === undefined ? null : `course ${JSON.stringify(course)}`;
  return {
    name: ["world", `seed ${seed}`, weighed, asking].filter((part) => part !== null).join(", "),
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
      train: worldSource(tokenizer, { windowLength, seed, ...asked }),
      heldOut: worldSource(tokenizer, { windowLength, seed: deriveSeed(seed, "held out"), ...asked }),
    }),
    recipe: { module: import.meta.url, make: "worldData", options },
  };
}
