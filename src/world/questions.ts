/**
 * Questions about what the log has said, and their answers. An answer's form depends on the kind of its question
 * alone, and holds the fact in its decisive words.
 */
import type { Fact, FactBook, FactKind, StatedFact } from "./facts.js";
import type { Random } from "./random.js";
import { capitalise, fill, templates } from "./text.js";
import { PLACES } from "./vocabulary.js";

/** The kinds of facts, "holder" ("Who has the brass key?"), and "talk", which is about nothing in the log. */
export type QuestionKind = FactKind | "holder" | "talk";

export interface Question {
  readonly kind: QuestionKind;
  /** "brass key", "Mara", "pier"; for talk, the question itself. */
  readonly subject: string;
  /** The decisive words: an answer is right that holds them. */
  readonly answer: string;
  /** Index of the piece in which the fact was last stated; null where nothing had to be stated. */
  readonly stated: number | null;
}

/** A question in words, and what a right answer says. */
export interface Asked {
  readonly question: Omit<Question, "stated">;
  readonly text: string;
  readonly reply: string;
}

interface Form {
  readonly asks: ReturnType<typeof templates>;
  /** Slots: `subject` and `value`. */
  readonly reply: ReturnType<typeof templates>[number];
  /** How often it is asked, beside other kinds at hand. */
  readonly weight: number;
}

const form = (weight: number, reply: string, ...asks: string[]): Form => ({
  asks: templates(...asks),
  reply: templates(reply)[0]!,
  weight,
});

const whereIsThing = [
  "Where is the {subject} now?",
  "Where is the {subject}?",
  "Where did the {subject} end up?",
  "Where can I find the {subject}?",
  "Do you know where the {subject} is?",
];

const FORMS: Readonly<Record<Exclude<QuestionKind, "talk">, Form>> = {
  thing: form(18, "the {subject} is {value}.", ...whereIsThing),
  keepsake: form(5, "the {subject} is {value}.", ...whereIsThing),
  holder: form(
    5,
    "{value} has the {subject}.",
    "Who has the {subject}?",
    "Who has the {subject} now?",
    "Who is carrying the {subject}?",
  ),
  carries: form(
    8,
    "{subject} is carrying {value}.",
    "What is {subject} carrying?",
    "What does {subject} carry?",
    "What is {subject} carrying now?",
  ),
  person: form(
    6,
    "{subject} is {value}.",
    "Where is {subject}?",
    "Where is {subject} now?",
    "Where can I find {subject}?",
    "Do you know where {subject} is?",
  ),
  boat: form(
    4,
    "the {subject} is {value}.",
    "Where is the {subject} now?",
    "Where is the {subject}?",
    "Where does the {subject} lie?",
  ),
  cargo: form(
    2,
    "the {subject} carries {value}.",
    "What does the {subject} carry?",
    "What is the cargo of the {subject}?",
    "What is on board the {subject}?",
  ),
  price: form(
    2,
    "the price of {subject} is {value} pence.",
    "What is the price of {subject}?",
    "How much is {subject}?",
    "What does {subject} cost now?",
  ),
  job: form(2, "the {subject} is {value}.", "Who is the {subject}?", "Who is the {subject} now?"),
  scene: form(
    4,
    "{at}, {value}.",
    "What is happening {at}?",
    "What is happening {at} now?",
    "What can be seen {at}?",
  ),
  weather: form(1, "the weather is {value}.", "What is the weather like?", "How is the weather?"),
  tide: form(1, "the tide is {value}.", "What is the tide doing?", "How is the tide?"),
  day: form(1, "it is {value}.", "What day is it?", "What day is it today?"),
};

/** All kinds, in the order in which tables list them. */
export const QUESTION_KINDS: readonly QuestionKind[] = [
  ...(Object.keys(FORMS) as (keyof typeof FORMS)[]),
  "talk",
];

/** Talk about nothing in the log. */
const TALK: readonly (readonly [asks: readonly string[], reply: string])[] = [
  [
    ["Who are you?", "Good morning. Who are you?", "Hello. Who are you?"],
    "I am the keeper of the harbour log. Ask me about the town.",
  ],
  [["Hello.", "Good morning.", "Good evening.", "Hello there."], "Hello. What would you like to know?"],
  [
    ["What can you do?", "What do you do?", "What can I ask you?"],
    "I read the log of the harbour, and I tell you who is where, and what was carried to which place.",
  ],
  [["How are you?", "How are you today?"], "I am well, and the log is never done. How are you?"],
  [["Thank you.", "Thank you very much.", "Thanks."], "You are welcome."],
  [["Goodbye.", "Good night.", "See you tomorrow."], "Goodbye. The log goes on."],
  [
    ["Where are we?", "What is this place?", "What town is this?"],
    "This is a small harbour town by the sea.",
  ],
  [["Do you like the sea?", "Do you like this town?"], "I do. There is always something to write down."],
  [["Do you ever sleep?", "When do you sleep?"], "No. The town goes on at night, and so does the log."],
];

/** The question of a kind about a fact, in one of its phrasings. */
function put(kind: Exclude<QuestionKind, "talk">, fact: Fact, random: Random): Asked {
  const { asks, reply } = FORMS[kind];
  const { subject } = fact;
  const answer = decisive(kind, fact.value);
  const at = kind === "scene" ? PLACES.find(({ name }) => name === subject)!.at : "";
  return {
    question: { kind, subject, answer },
    text: fill(random.pick(asks), { subject, at }),
    reply: capitalise(fill(reply, { subject, value: answer, at })),
  };
}

/** A fact's value as an answer says it. */
function decisive(kind: QuestionKind, value: string): string {
  if (kind === "holder") return value.slice("with ".length);
  if (kind === "scene") return value.replace(" was ", " is ").replace(" were ", " are ");
  return value;
}

/** A question about `fact`. A thing that somebody carries can be asked about in two ways. */
export function askAbout(fact: Fact, random: Random): Asked {
  const carried = fact.kind === "thing" && fact.value.startsWith("with ");
  return put(carried && random.chance(0.6) ? "holder" : fact.kind, fact, random);
}

/** Greetings and the like, with their one good answer. */
export function talk(random: Random): Asked {
  const [asks, reply] = random.pick(TALK);
  const text = random.pick(asks);
  return { question: { kind: "talk", subject: text, answer: reply }, text, reply };
}

/** The facts that an answer states anew. */
export function restated({ kind, subject, answer }: Asked["question"]): readonly Fact[] {
  switch (kind) {
    case "talk":
      return [];
    case "holder":
      return [
        { kind: "thing", subject, value: `with ${answer}` },
        { kind: "carries", subject: answer, value: `the ${subject}` },
      ];
    case "carries":
      return [
        { kind: "thing", subject: answer.slice("the ".length), value: `with ${subject}` },
        { kind: "carries", subject, value: answer },
      ];
    case "scene":
      return [{ kind, subject, value: answer.replace(" is ", " was ").replace(" are ", " were ") }];
    case "thing":
      return answer.startsWith("with ")
        ? [
            { kind, subject, value: answer },
            { kind: "carries", subject: answer.slice("with ".length), value: `the ${subject}` },
          ]
        : [{ kind, subject, value: answer }];
    default:
      return [{ kind, subject, value: answer }];
  }
}

/** How far back questions reach, in words and marks (about as many tokens). */
export interface Distances {
  readonly from: number;
  readonly to: number;
  /**
   * "even": as many at every distance; "far": the more, the further back; "logarithmic": as many from 10 to 100 as from
   * 100 to 1000.
   */
  readonly spread: "even" | "far" | "logarithmic";
}

/** How often kinds of questions are asked beside others at hand, where not as by default. */
export type Weights = Readonly<Partial<Record<QuestionKind, number>>>;

const DRAWS: Readonly<Record<Distances["spread"], (from: number, to: number, random: Random) => number>> = {
  even: (from, to, random) => from + random.fraction() * (to - from),
  far: (from, to, random) => from + Math.sqrt(random.fraction()) * (to - from),
  logarithmic: (from, to, random) => random.logarithmic(from, to),
};

/**
 * The fact to ask about: a distance is drawn, then a fact among those stated about that far back, so that distances are
 * spread as asked; within the stream's age, while that is less. Where nothing was stated about that far back, the fact
 * that comes nearest. Null where nothing lies in the range at all.
 */
export function chooseFact(
  book: FactBook,
  now: number,
  { from, to, spread }: Distances,
  random: Random,
  weights: Weights = {},
): StatedFact | null {
  const draw = DRAWS[spread];
  let wanted = draw(from, to, random);
  if (wanted > now) wanted = draw(from, Math.max(from, now), random);
  const slack = 20 + wanted / 8;
  const near: StatedFact[] = [];
  let nearest: StatedFact | null = null;
  let least = Number.POSITIVE_INFINITY;
  for (const fact of book.all()) {
    const distance = now - fact.at;
    if (distance < from || distance > to) continue;
    const off = Math.abs(distance - wanted);
    if (off <= slack) near.push(fact);
    if (off < least) {
      least = off;
      nearest = fact;
    }
  }
  if (near.length === 0) return nearest;
  return near[random.weighted(near.map(({ kind }) => weights[kind] ?? FORMS[kind].weight))]!;
}

/** Kinds of which there is one in the town, so that an answer need not say what it is about. */
const ONE_OF_A_KIND: readonly QuestionKind[] = ["weather", "tide", "day", "talk"];

/** Whether an answer is right: it says the decisive words, and what it is about or "it", whatever stands around them. */
export function grade({ kind, subject, answer }: Omit<Question, "stated">, given: string): boolean {
  const words = ` ${plainWords(given)} `;
  const says = (text: string) => words.includes(` ${plainWords(text)} `);
  const isAbout = ONE_OF_A_KIND.includes(kind) || says(subject) || /^ (it|he|she) /.test(words);
  return says(answer) && isAbout;
}

/** Lower case, words only. */
const plainWords = (text: string): string =>
  text
    .toLowerCase()
    .match(/[a-z']+/g)
    ?.join(" ") ?? "";
