import { type OpenOptions, open } from "../index.js";
import type { Contestant, Work } from "./contestant.js";

/** Millrace through its public API, so that what is measured is what a caller gets. */
export async function ours(path: string, options: OpenOptions): Promise<Contestant & { info: ModelInfo }> {
  const model = await open(path, options);
  return {
    name: "millrace",
    description: model.info.backend.description,
    info: model.info,
    async run({ prompts, generate }: Work) {
      const start = performance.now();
      const times = await Promise.all(
        prompts.map(async (prompt) => {
          const arrived: number[] = [];
          const generation = model.generate(prompt, {
            maxTokens: generate,
            temperature: 0,
            ignoreEos: true,
          });
          for await (const piece of generation) {
            const now = performance.now() - start;
            for (const _ of piece.tokens) arrived.push(now);
          }
          return arrived;
        }),
      );
      return { times };
    },
    [Symbol.asyncDispose]: () => model.close(),
  };
}

type ModelInfo = Awaited<ReturnType<typeof open>>["info"];
