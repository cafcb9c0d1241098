/** Log-probabilities as OpenAI's two APIs write them. */
import type { TokenScore } from "../index.js";
import type { CompletionLogprobs } from "./schemas/completions.js";
import { isWhole, type TokenText, type Vocabulary } from "./vocabulary.js";

/** JSON has no -Infinity; OpenAI writes this for what is as good as impossible. */
const IMPOSSIBLE = -9999;

const finite = (logprob: number): number => Math.max(logprob, IMPOSSIBLE);

type Scored = TokenText & { readonly logprob: number };

interface Entry extends Scored {
  readonly top_logprobs: Scored[];
}

/** Of /v1/chat/completions. */
export function contentLogprobs(vocabulary: Vocabulary, scores: readonly TokenScore[]): Promise<Entry[]> {
  return Promise.all(
    scores.map(async ({ id, logprob, top }) => {
      const [own, ...others] = await vocabulary.texts([id, ...top.map((one) => one.id)]);
      return {
        ...own!,
        logprob: finite(logprob),
        top_logprobs: top.map((one, i) => ({ ...others[i]!, logprob: finite(one.logprob) })),
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
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let at = offset;
  const offsets = entries.map(({ bytes }) => {
    const start = at;
    at += decoder.decode(Uint8Array.from(bytes), { stream: true }).length;
    return start;
  });
  return {
    tokens: entries.map(nameOf),
    token_logprobs: entries.map(({ logprob }) => logprob),
    top_logprobs: entries.map(({ top_logprobs }) =>
      Object.fromEntries(top_logprobs.map((one) => [nameOf(one), one.logprob])),
    ),
    text_offset: offsets,
  };
}

/** A token that is no whole character has another mark here than in chats. */
const nameOf = (text: TokenText): string => (isWhole(text) ? text.token : `bytes:${text.token}`);
