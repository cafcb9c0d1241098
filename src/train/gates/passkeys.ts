/**
 * What gates are trained on: long texts in which passkeys of random words are told, from near the beginning to near the
 * end, and asked about behind the end. Only the tokens of the answers count (arXiv 2410.10819, section 2.2).
 */
import { invalid, wholeNumber } from "../../engine/options.js";
import type { Tokenizer } from "../../tokenizer/contract.js";
import { ASSISTANT, END, USER } from "../../world/control.js";
import { WORDS } from "../../world/drills.js";
import { Random } from "../../world/random.js";
import type { Window, WindowSource } from "../data.js";
import { deriveSeed } from "../seeds.js";
import type { TrainingData } from "../training-data.js";
import { type Haystack, knowsWorld, type Straws, worldHaystack } from "./haystack.js";

export interface PasskeyOptions {
  /** Default: the log of the harbour town. */
  readonly haystack?: Haystack;
  /** Passkeys of a window, at most 20; fewer in windows that are too short. Default 10. */
  readonly passkeys?: number;
  /** Words of each; fewer where all of them would take more than half of the window. Default 32. */
  readonly words?: number;
  /** A whole number from 0 on. Default 0. */
  readonly seed?: number;
}

const ORDINALS = [
  ...["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"],
  ...["eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth"],
  ...["eighteenth", "nineteenth", "twentieth"],
];

/** Where the first and the last passkey stand, as shares of the text. */
const SHALLOWEST = 0.05;
const DEEPEST = 0.95;

/** Windows of passkeys without end; held out are those of another seed. Throws INVALID_ARGUMENT for options out of range. */
export function passkeys(options: PasskeyOptions = {}): Pick<TrainingData, "name" | "windows" | "recipe"> {
  const { haystack = worldHaystack } = options;
  const count = wholeNumber("passkeys", options.passkeys, 1, ORDINALS.length) ?? 10;
  const words = wholeNumber("words", options.words, 1) ?? 32;
  const seed = wholeNumber("seed", options.seed, 0) ?? 0;
  return {
    name: `${count} passkeys of ${words} words in ${haystack.name}, seed ${seed}`,
    async windows(tokenizer, length) {
      const straws = await haystack.open(tokenizer, length);
      const source = (own: number): WindowSource => ({
        windowLength: length,
        numWindows: Number.POSITIVE_INFINITY,
        window: (index) => hide(tokenizer, length, straws, { count, words, seed: own, index }),
      });
      return { train: source(seed), heldOut: source(deriveSeed(seed, "held out")) };
    },
    // A haystack of the caller's is code, and stays in the caller's thread.
    ...(options.haystack === undefined && {
      recipe: { module: import.meta.url, make: "passkeys", options },
    }),
  };
}

interface Hiding {
  readonly count: number;
  readonly words: number;
  readonly seed: number;
  readonly index: number;
}

/** A passkey in tokens: what tells it, what asks for it, and the answer. */
interface Passkey {
  readonly told: ArrayLike<number>;
  readonly asked: ArrayLike<number>;
  readonly answer: ArrayLike<number>;
}

/** Window `index`. */
function hide(tokenizer: Tokenizer, length: number, straws: Straws, hiding: Hiding): Window {
  const { seed, index } = hiding;
  const first = tokenizer.bosId ?? tokenizer.eosId;
  const text = new Text(length + 1);
  if (first !== null) text.add([first]);
  const keys = fitting(tokenizer, length / 2, hiding);
  const room = length + 1 - text.length - keys.reduce((sum, key) => sum + lengthOf(key), 0);
  const depths = keys.map((_, i) =>
    Math.floor(room * (SHALLOWEST + ((DEEPEST - SHALLOWEST) * i) / Math.max(1, keys.length - 1))),
  );
  let [filled, told] = [0, 0];
  for (const { ids, answers } of straws(seed, index)) {
    for (; told < keys.length && filled >= depths[told]!; told++) text.add(keys[told]!.told);
    if (filled >= room) break;
    filled += text.add(ids, answers, room - filled);
  }
  const random = new Random(deriveSeed(seed, index, "order"));
  const order = [...keys];
  while (order.length > 0) {
    const [{ asked, answer }] = order.splice(random.below(order.length), 1) as [Passkey];
    text.add(asked);
    text.add(answer, new Uint8Array(answer.length).fill(1));
  }
  return text.window();
}

/** The passkeys of a window: shorter ones, then fewer, until they take `most` tokens. Throws INVALID_ARGUMENT where not one fits. */
function fitting(tokenizer: Tokenizer, most: number, { count, words, seed, index }: Hiding): Passkey[] {
  for (let keys = count; keys >= 1; keys = Math.floor(keys / 2)) {
    for (let size = words; size >= 1; size = Math.floor(size * 0.75)) {
      const random = new Random(deriveSeed(seed, index, "passkeys"));
      const made = ORDINALS.slice(0, keys).map((ordinal) => passkey(tokenizer, ordinal, size, random));
      if (made.reduce((sum, key) => sum + lengthOf(key), 0) <= most) return made;
    }
  }
  throw invalid("length", 2 * most, "windows long enough for one passkey of one word, twice");
}

function passkey(tokenizer: Tokenizer, ordinal: string, size: number, random: Random): Passkey {
  const encode = (text: string): Int32Array =>
    tokenizer.encode(text, { addSpecial: false, parseSpecial: true, continues: true });
  const words = Array.from({ length: size }, () => random.pick(WORDS)).join(" ");
  const question = `What is the ${ordinal} passkey?`;
  const lead = `The ${ordinal} passkey is`;
  const [asked, end] = knowsWorld(tokenizer)
    ? [`${USER}${question}${ASSISTANT}${lead}`, `.${END}\n`]
    : [`\n${question} ${lead}`, "."];
  return {
    told: encode(` ${lead} ${words}. Remember it.\n`),
    asked: encode(asked),
    answer: encode(` ${words}${end}`),
  };
}

const lengthOf = ({ told, asked, answer }: Passkey): number => told.length + asked.length + answer.length;

/** A text that becomes a window: one token more than it has, since the last is only said. */
class Text {
  readonly #ids: Int32Array;
  readonly #answers: Uint8Array;
  #length = 0;

  constructor(most: number) {
    this.#ids = new Int32Array(most);
    this.#answers = new Uint8Array(most);
  }

  get length(): number {
    return this.#length;
  }

  /** Adds tokens, at most `most`; returns how many. `answers` is 1 beside those that count. */
  add(ids: ArrayLike<number>, answers: ArrayLike<number> | null = null, most = ids.length): number {
    const count = Math.min(ids.length, most);
    for (let i = 0; i < count; i++) {
      this.#ids[this.#length] = ids[i]!;
      this.#answers[this.#length++] = answers?.[i] ?? 0;
    }
    return count;
  }

  window(): Window {
    return {
      tokens: this.#ids.slice(0, -1),
      targets: this.#ids.slice(1).map((id, i) => (this.#answers[i + 1] === 1 ? id : -1)),
      weights: null,
    };
  }
}
