/** What llama.cpp said about a tiny model; written by test/oracles/models.oracle.ts. */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

export interface ModelFixture {
  readonly seed: number;
  /** Context that the model was opened with. */
  readonly context: number;
  readonly prompt: readonly number[];
  /** Most likely id after each token of the prompt. */
  readonly predicted: readonly number[];
  /** Greedy continuation. */
  readonly greedy: readonly number[];
  /** For each greedy id: the most likely ids and their logprobs, best first. */
  readonly top: readonly (readonly (readonly [id: number, logprob: number])[])[];
}

export function readModelFixture(name: string): ModelFixture {
  const path = resolve(import.meta.dirname, `../fixtures/models/${name}.json`);
  return JSON.parse(readFileSync(path, "utf8")) as ModelFixture;
}
