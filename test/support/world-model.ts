/** A tiny model of the world, with random weights: for what only has to run. */
import { exportGguf } from "../../src/train/export.js";
import { initialiseModel } from "../../src/train/initialise.js";
import { trainTokenizer } from "../../src/train/tokenizer.js";
import { ASSISTANT, BOS, CHAT_TEMPLATE, END, USER } from "../../src/world/control.js";
import { world } from "../../src/world/world.js";

/** Writes it to `path`, with a vocabulary of 600 from 5,000 pieces of the log, for 1,024 tokens. */
export async function writeWorldModel(path: string): Promise<void> {
  const texts: string[] = [];
  for (const { text } of world({ seed: 1 })) if (texts.push(text) === 5000) break;
  const metadata = await trainTokenizer([texts.join("")], {
    vocabularySize: 600,
    bos: BOS,
    eos: END,
    control: [USER, ASSISTANT],
    chatTemplate: CHAT_TEMPLATE,
  });
  const shape = { width: 32, layers: 1, heads: 2, feedForward: 64, context: 1024 };
  await exportGguf(path, initialiseModel(shape, metadata, { seed: 1 }));
}
