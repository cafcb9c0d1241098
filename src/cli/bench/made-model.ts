/** The model that a bench runs on: one that is named, or random weights in the shape of a known one. */
import { join } from "node:path";
import { type Command, Option } from "commander";
import { randomModel } from "../../bench/random-model.js";
import { findQuant, findShape, QUANTS, SHAPES } from "../../bench/shapes.js";
import { cacheFolder } from "../../formats/cache-folder.js";
import { progressBar } from "../progress.js";

export interface ShapeOptions {
  readonly shape: string;
  readonly quant: string;
}

export function addShapeOptions(command: Command): Command {
  return command
    .addOption(
      new Option("--shape <name>", "shape of the random model")
        .choices(Object.keys(SHAPES))
        .default("tinyllama-1.1b"),
    )
    .addOption(new Option("--quant <type>", "its quantisation").choices(QUANTS).default("q4_0"));
}

/** Path of the random model of this shape, made first where it is not there. */
export async function madeModel({ shape, quant }: ShapeOptions): Promise<string> {
  const bar = progressBar("writing the random model");
  try {
    const folder = join(cacheFolder(), "bench");
    return await randomModel(findShape(shape), findQuant(quant), folder, bar.update);
  } finally {
    bar.stop();
  }
}
