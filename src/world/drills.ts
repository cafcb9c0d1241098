/**
 * Drills: short turns that are nothing but looking back. A small model that reads only the log finds out late how to
 * copy what stands further up, since few of the log's words can be told from it; here nearly every word of an answer can.
 */
import type { Random } from "./random.js";
import { capitalise } from "./text.js";
import { BOATS, CARGOES, GOODS, NUMBERS, PEOPLE, PLACES, THINGS } from "./vocabulary.js";
import { type Piece, turn } from "./world.js";

/** Turns without end: some say words again that the user says, some find what was told of a thing. */
export function* drills(random: Random): Generator<Piece, never, undefined> {
  for (;;) yield* random.chance(0.5) ? sayAgain(random) : find(random);
}

/** Words that things are told and said with. */
export const WORDS: readonly string[] = [
  ...new Set(THINGS.flatMap((thing) => thing.split(" "))),
  ...PLACES.map(({ name }) => name),
  ...[...PEOPLE, ...BOATS, ...CARGOES, ...GOODS, ...NUMBERS],
];

/** "Say after me: brass pier Mara." */
function* sayAgain(random: Random): Generator<Piece, void, undefined> {
  const words = Array.from({ length: random.between(3, 20) }, () => random.pick(WORDS)).join(" ");
  yield* turn(
    {
      question: { kind: "talk", subject: words, answer: words },
      text: `Say after me: ${words}.`,
      reply: `${words}.`,
    },
    0,
  );
}

/** "The brass key is in the loft. The old jug is at the mill. Where is the key?", and then the jug. */
function* find(random: Random): Generator<Piece, void, undefined> {
  const told = new Map<string, string>();
  const number = random.between(1, 6);
  while (told.size < number)
    told.set(random.pick(random.chance(0.7) ? THINGS : BOATS), random.pick(PLACES).at);
  const names = [...told.keys()];
  let story = names.map((name) => `The ${name} is ${told.get(name)}. `).join("");
  for (let left = number; left > 0; left--) {
    const subject = random.pick(names);
    const answer = told.get(subject)!;
    yield* turn(
      {
        question: { kind: "thing", subject, answer },
        text: `${story}Where is the ${subject}?`,
        reply: capitalise(`the ${subject} is ${answer}.`),
      },
      0,
    );
    story = "";
  }
}
