/** How many questions about the world a model answers right. */
import type { Model } from "../engine/model.js";
import { grade } from "../world/questions.js";
import type { HeldOutQuestion } from "./world-stream.js";

/** A question that was asked. */
export interface Graded extends Omit<HeldOutQuestion, "prompt"> {
  /** What the model said. */
  readonly answer: string;
  readonly right: boolean;
}

/** Longest answer of the world is less than 40 tokens. */
export const MOST_ANSWER_TOKENS = 48;

/** Asks all questions, greedily, `sequences` at once; in the order given. Throws what `generate` throws. */
export async function askAll(
  model: Pick<Model, "generate">,
  questions: readonly HeldOutQuestion[],
  options: {
    readonly sequences: number;
    /** One of those that the model was opened with. */
    readonly adapter?: string;
    readonly signal?: AbortSignal;
    readonly onAnswer?: (done: number, total: number) => void;
  },
): Promise<Graded[]> {
  const graded: Graded[] = new Array(questions.length);
  const { sequences, adapter, signal, onAnswer } = options;
  let next = 0;
  let done = 0;
  const ask = async (): Promise<void> => {
    while (next < questions.length) {
      const index = next++;
      const { prompt, ...question } = questions[index]!;
      const generation = model.generate(prompt, {
        maxTokens: MOST_ANSWER_TOKENS,
        temperature: 0,
        ...(adapter === undefined ? {} : { adapter }),
        ...(signal ? { signal } : {}),
      });
      const { text } = await generation.result;
      graded[index] = { ...question, answer: text, right: grade(question.question, text) };
      onAnswer?.(++done, questions.length);
    }
  };
  await Promise.all(Array.from({ length: sequences }, ask));
  return graded;
}

/** Questions, and how many of them were answered right. */
export interface Share {
  readonly name: string;
  readonly questions: number;
  readonly right: number;
}

export interface AnswerReport {
  readonly all: Share;
  /** Most asked first. */
  readonly byKind: readonly Share[];
  /** By hundreds of tokens since the fact was stated: "0-99", "100-199", … */
  readonly byDistance: readonly Share[];
}

/** Sums by kind and by distance. */
export function tally(graded: readonly Graded[]): AnswerReport {
  const byKind = shares(graded, ({ question }) => question.kind);
  const hundreds = ({ distance }: Graded) => Math.floor(distance / 100) * 100;
  const byDistance = shares(
    [...graded].sort((a, b) => a.distance - b.distance),
    (one) => `${hundreds(one)}-${hundreds(one) + 99}`,
  );
  return {
    all: shares(graded, () => "all")[0] ?? { name: "all", questions: 0, right: 0 },
    byKind: byKind.sort((a, b) => b.questions - a.questions),
    byDistance,
  };
}

function shares(graded: readonly Graded[], nameOf: (one: Graded) => string): Share[] {
  const counts = new Map<string, { questions: number; right: number }>();
  for (const one of graded) {
    const name = nameOf(one);
    const { questions, right } = counts.get(name) ?? { questions: 0, right: 0 };
    counts.set(name, { questions: questions + 1, right: right + (one.right ? 1 : 0) });
  }
  return Array.from(counts, ([name, count]) => ({ name, ...count }));
}
