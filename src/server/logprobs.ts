/** Log-probabilities as OpenAI's two APIs write them. */
import type { TokenScore } from "../index.js";
import type { ContentLogprob } from "./schemas/chat.js";
import type { CompletionLogprobs } from "./schemas/completions.js";
import type { Vocabulary } from "./vocabulary.js";

/** JSON has no -Infinity; OpenAI writes this for what is as good as impossible. */
const IMPOSSIBLE = -9999;

const finite = (logprob: number): number => Math.max(logprob, IMPOSSIBLE);

/** Of /v1/chat/completions. */
export async function contentLogprobs(
  vocabulary: Vocabulary,
  scores: readonly TokenScore[],
): Promise<ContentLogprob[]> {
  return Promise.all(
    scores.map(async ({ id, logprob, top }) => {
      const [own, ...others] = await vocabulary.texts([id, ...top.map((one) => one.id)]);
      return {
        token: own!.token,
        bytes: own!.bytes,
        logprob: finite(logprob),
        top_logprobs: top.map((one, i) => ({
          token: others[i]!.token,
          bytes: others[i]!.bytes,
          logprob: finite(one.logprob),
        })),
      };
    }),
  );
}

/** Of /v1/completions. `offset`: characters before the first of these tokens. */
export async function completionLogprobs(
  vocabulary: Vocabulary,
  scores: readonly TokenScore[],
  offset: number,
): Promise<CompletionLogprobs> {
  const entries = await contentLogprobs(vocabulary, scores);
  let at = offset;
  const offsets = entries.map(({ token }) => {
    const start = at;
    at += token.length;
    return start;
  });
  return {
    tokens: entries.map(({ token }) => token),
    token_logprobs: entries.map(({ logprob }) => logprob),
    top_logprobs: entries.map(({ top_logprobs }) =>
      Object.fromEntries(top_logprobs.map(({ token, logprob }) => [token, logprob])),
    ),
    text_offset: offsets,
  };
}
