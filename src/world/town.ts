/**
 * The state of the town, and what happens in it. `Town.happen` makes one sentence at a time: it changes the state and
 * says which facts the sentence states. Memory is bounded whatever happens.
 */
import type { Fact, FactKind } from "./facts.js";
import type { Random } from "./random.js";
import * as sentences from "./sentences.js";
import { fill, type Template } from "./text.js";
import {
  BOATS,
  CARGOES,
  DAYS,
  GOODS,
  JOBS,
  MOORINGS,
  NUMBERS,
  PEOPLE,
  PLACES,
  type Place,
  THINGS,
  TIDES,
  WEATHERS,
  withArticle,
} from "./vocabulary.js";

/** One sentence of the log, without a capital unless it begins with a name. */
export interface Sentence {
  readonly text: string;
  /** What it says that holds from now on. */
  readonly states: readonly Fact[];
  /** What no longer holds, without a new value that the sentence says. */
  readonly ends: readonly { readonly kind: FactKind; readonly subject: string }[];
  /** Whether it may follow "meanwhile" or "at seven". */
  readonly event: boolean;
}

/** How a paragraph begins. */
export interface Opening {
  /** "At seven ", before a first sentence that may follow it; null for none. */
  readonly lead: string | null;
  /** A sentence of its own, where there is no lead or none that fits. */
  readonly text: string;
  /** What `text` states; nothing where there is a lead. */
  readonly states: readonly Fact[];
}

interface Person {
  readonly name: string;
  place: Place;
  carries: Thing | null;
  /** Not moved before this many words of the stream. */
  restsUntil: number;
}

interface Thing {
  readonly name: string;
  place: Place;
  holder: Person | null;
  restsUntil: number;
  /** Words that it usually rests between moves. */
  readonly calm: readonly [from: number, to: number];
}

interface Boat {
  readonly name: string;
  /** Null while it is at sea. */
  mooring: Place | null;
  cargo: string | null;
  restsUntil: number;
}

interface Keepsake {
  readonly name: string;
  readonly place: Place;
}

/** Things that come and go; about this many at a time. */
const FEWEST_THINGS = 14;
const MOST_THINGS = 18;
/** Things put away for good that the town remembers; at the pace of the log the oldest lies 200,000 words back. */
const MOST_KEEPSAKES = 640;

const the = (name: string): string => `the ${name}`;

export class Town {
  readonly #random: Random;
  readonly #people: readonly Person[];
  readonly #boats: readonly Boat[];
  readonly #things: Thing[] = [];
  /** Oldest first from `#oldestKeepsake` on, in a ring. */
  readonly #keepsakes: Keepsake[] = [];
  #oldestKeepsake = 0;
  /** Names in use. */
  readonly #names = new Set<string>();
  readonly #prices = new Map<string, number>();
  readonly #jobs = new Map<string, string>();
  /** What the log has said of a kind that has only few subjects: only that can still be so. */
  readonly #said = new Set<string>();
  #weather: string;
  #tide: number;
  #day: number;
  /** Minutes since midnight. */
  #minutes: number;
  /** The last openings of paragraphs, which are not used again at once. */
  #openings: readonly string[] = [];
  /** Words of the stream so far. */
  #now = 0;

  constructor(random: Random) {
    this.#random = random;
    this.#people = PEOPLE.map((name) => ({
      name,
      place: random.pick(PLACES),
      carries: null,
      restsUntil: 0,
    }));
    this.#boats = BOATS.map((name) => ({
      name,
      mooring: random.chance(0.7) ? random.pick(MOORINGS) : null,
      cargo: random.chance(0.6) ? random.pick(CARGOES) : null,
      restsUntil: 0,
    }));
    const numThings = random.between(FEWEST_THINGS - 2, MOST_THINGS - 2);
    while (this.#things.length < numThings) this.#addThing(random.pick(PLACES));
    for (const good of GOODS) this.#prices.set(good, random.between(2, 12));
    for (const job of JOBS) this.#jobs.set(job, random.pick(PEOPLE));
    this.#weather = random.pick(WEATHERS);
    this.#tide = random.below(TIDES.length);
    this.#day = random.below(DAYS.length);
    this.#minutes = random.between(6 * 60, 22 * 60);
  }

  /** Time passes, and a paragraph begins. */
  open(now: number): Opening {
    const random = this.#random;
    this.#now = now;
    this.#minutes += random.between(15, 50);
    const night = this.#minutes >= 23 * 60 + 30;
    if (night) this.#minutes = random.between(5 * 60 + 30, 7 * 60);
    const part = this.#part();
    if (night) {
      this.#day = (this.#day + 1) % DAYS.length;
      const day = DAYS[this.#day]!;
      const text = fill(random.pick(sentences.NEW_DAY), { day });
      return { lead: null, text, states: [{ kind: "day", subject: "day", value: day }] };
    }
    const leads = [this.#clock(part), null, random.pick(sentences.LEADS)] as const;
    const fresh = sentences.OPENINGS[part].filter((text) => !this.#openings.includes(text));
    const text = random.pick(fresh);
    this.#openings = [...this.#openings.slice(-2), text];
    return { lead: leads[random.weighted([40, 30, 30])]!, text, states: [] };
  }

  #part(): sentences.DayPart {
    const hour = this.#minutes / 60;
    return hour < 5 || hour >= 22 ? "night" : hour < 12 ? "morning" : hour < 18 ? "afternoon" : "evening";
  }

  #clock(part: sentences.DayPart): string {
    const random = this.#random;
    const hour = Math.floor(this.#minutes / 60);
    const minute = this.#minutes % 60;
    const [at, atPart, after, before, bell] = sentences.AT_HOUR;
    const template: Template =
      minute < 12 ? random.pick([at!, atPart!, bell!]) : minute < 35 ? after! : before!;
    const spoken = (template === before ? hour + 1 : hour) % 12;
    return fill(template, { hour: NUMBERS[(spoken + 11) % 12]!, part });
  }

  /**
   * The next sentence. `now`: words of the stream before it. `varied`: what is rare in a log comes more often, as in
   * talk.
   */
  happen(now: number, varied = false): Sentence {
    this.#now = now;
    const random = this.#random;
    const weights = varied ? VARIED_WEIGHTS : EVENT_WEIGHTS;
    for (;;) {
      const sentence = EVENTS[random.weighted(weights)]!.make(this, random);
      if (sentence !== null) return sentence;
    }
  }

  /** What can happen, with how often; null where it cannot happen now. */
  static readonly events: readonly {
    readonly weight: number;
    readonly make: (town: Town, random: Random) => Sentence | null;
  }[] = [
    { weight: 26, make: (town, random) => town.#moveThing(random) },
    { weight: 5, make: (town, random) => town.#restateThing(random) },
    { weight: 6, make: (town, random) => town.#takeAlong(random) },
    { weight: 2, make: (town, random) => town.#restateCarrying(random) },
    { weight: 3, make: (town, random) => town.#addOrRemoveThing(random) },
    { weight: 3.5, make: (town, random) => town.#stow(random) },
    { weight: 10, make: (town, random) => town.#walk(random) },
    { weight: 4, make: (town, random) => town.#stay(random) },
    { weight: 7, make: (town, random) => town.#sail(random) },
    { weight: 2.5, make: (town, random) => town.#restateBoat(random) },
    { weight: 8, make: (town, random) => town.#scene(random) },
    { weight: 2, make: (town, random) => town.#weatherOrTide(random) },
    { weight: 3, make: (town, random) => town.#price(random) },
    { weight: 2.5, make: (town, random) => town.#job(random) },
    { weight: 0.5, make: (town, random) => town.#restateDay(random) },
    { weight: 5, make: (town, random) => town.#colour(random) },
    { weight: 7, make: (town, random) => town.#peopleColour(random) },
  ];

  // Things

  #moveThing(random: Random): Sentence | null {
    const thing = this.#due(this.#things);
    if (thing === null) return null;
    if (thing.holder !== null) return this.#putDown(thing, thing.holder);
    const from = thing.place;
    const to = this.#elsewhere(PLACES, from);
    const how = random.pick(this.#weather === "wet" ? sentences.IN_RAIN : sentences.HOW);
    const values = { thing: the(thing.name), from: from.the, to: to.the, at: to.at, how };
    this.#lay(thing, to);
    if (random.chance(0.3)) {
      return event(fill(random.pick(sentences.PASSIVE_MOVES), values), [whereIs(thing)]);
    }
    const near = this.#people.filter(({ place }) => place === from);
    const who = near.length > 0 && random.chance(0.6) ? random.pick(near) : random.pick(this.#people);
    this.#go(who, to);
    const byHand = random.chance(0.5) ? random.pick(sentences.BY_HAND) : how;
    const text = fill(random.pick(sentences.MOVES), { ...values, who: who.name, how: byHand });
    return event(text, [whereIs(thing), personIs(who)]);
  }

  #putDown(thing: Thing, who: Person): Sentence {
    const to = this.#random.pick(PLACES);
    who.carries = null;
    thing.holder = null;
    this.#lay(thing, to);
    this.#go(who, to);
    const values = { who: who.name, thing: the(thing.name), to: to.the, at: to.at };
    const text = fill(this.#random.pick(sentences.PUTS_DOWN), values);
    return event(text, [whereIs(thing), personIs(who)], [{ kind: "carries", subject: who.name }]);
  }

  #takeAlong(random: Random): Sentence | null {
    const thing = this.#due(this.#things);
    if (thing === null) return null;
    const free = this.#people.filter(({ carries }) => carries === null);
    if (thing.holder === null) {
      const carrying = this.#people.length - free.length;
      if (carrying >= 5) return null;
      const who = random.pick(free);
      this.#hold(thing, who);
      const text = fill(random.pick(sentences.TAKES), { who: who.name, thing: the(thing.name) });
      return event(text, [whereIs(thing), carries(who, thing)]);
    }
    const giver = thing.holder;
    const taker = random.pick(free);
    giver.carries = null;
    this.#hold(thing, taker);
    const values = { who: giver.name, other: taker.name, thing: the(thing.name) };
    const ends = [{ kind: "carries", subject: giver.name }] as const;
    return event(fill(random.pick(sentences.GIVES), values), [whereIs(thing), carries(taker, thing)], ends);
  }

  #restateThing(random: Random): Sentence | null {
    const thing = random.pick(this.#things);
    if (thing.holder !== null) return null;
    const who = random.pick(PEOPLE);
    const values = { thing: the(thing.name), at: thing.place.at, who };
    return plain(fill(random.pick(sentences.REST_OF_THINGS), values), [whereIs(thing)]);
  }

  #restateCarrying(random: Random): Sentence | null {
    const carriers = this.#people.filter((person) => person.carries !== null);
    if (carriers.length === 0) return null;
    const who = random.pick(carriers);
    const thing = who.carries!;
    const values = { who: who.name, thing: the(thing.name), other: this.#other(who.name) };
    return plain(fill(random.pick(sentences.STILL_CARRIES), values), [whereIs(thing), carries(who, thing)]);
  }

  #addOrRemoveThing(random: Random): Sentence | null {
    const count = this.#things.length;
    const add = count <= FEWEST_THINGS || (count < MOST_THINGS && random.chance(0.5));
    if (!add) {
      const thing = this.#due(this.#things);
      if (thing === null || thing.holder !== null) return null;
      this.#things.splice(this.#things.indexOf(thing), 1);
      this.#names.delete(thing.name);
      const values = { thing: the(thing.name), who: random.pick(PEOPLE) };
      const ends = [{ kind: "thing", subject: thing.name }] as const;
      return event(fill(random.pick(sentences.GOES_AWAY), values), [], ends);
    }
    const place = random.pick(PLACES);
    const thing = this.#addThing(place);
    const values = { new: withArticle(thing.name), at: place.at };
    if (random.chance(0.5)) return event(fill(random.pick(sentences.TURNS_UP), values), [whereIs(thing)]);
    const who = random.pick(this.#people);
    this.#go(who, place);
    const text = fill(random.pick(sentences.FINDS), { ...values, who: who.name });
    return event(text, [whereIs(thing), personIs(who)]);
  }

  #stow(random: Random): Sentence {
    const ends: { kind: FactKind; subject: string }[] = [];
    if (this.#keepsakes.length === MOST_KEEPSAKES) {
      const oldest = this.#keepsakes[this.#oldestKeepsake]!;
      this.#names.delete(oldest.name);
      ends.push({ kind: "keepsake", subject: oldest.name });
    }
    const keepsake = { name: this.#freeName(), place: random.pick(PLACES) };
    this.#names.add(keepsake.name);
    this.#keepsakes[this.#oldestKeepsake] = keepsake;
    this.#oldestKeepsake = (this.#oldestKeepsake + 1) % MOST_KEEPSAKES;
    const { name, place } = keepsake;
    const template = random.pick(sentences.STOWS);
    const states: Fact[] = [{ kind: "keepsake", subject: name, value: place.at }];
    const values = { new: withArticle(name), at: place.at, who: "" };
    if (template.includes("who")) {
      const who = random.pick(this.#people);
      this.#go(who, place);
      values.who = who.name;
      states.push(personIs(who));
    }
    return event(fill(template, values), states, ends);
  }

  #addThing(place: Place): Thing {
    const random = this.#random;
    const name = random.chance(0.3) ? this.#sharedName() : this.#freeName();
    const calm = random.chance(0.65) ? ([60, 400] as const) : ([300, 2000] as const);
    const thing = { name, place, holder: null, restsUntil: 0, calm };
    this.#rest(thing);
    this.#names.add(name);
    this.#things.push(thing);
    return thing;
  }

  /** A name that nothing bears, with a noun that none of the things bears. */
  #freeName(): string {
    const nouns = new Set(this.#things.map(({ name }) => nounOf(name)));
    for (;;) {
      const name = this.#random.pick(THINGS);
      if (!this.#names.has(name) && !nouns.has(nounOf(name))) return name;
    }
  }

  /** A name that nothing bears, with the noun of one of the things: only the adjective tells them apart. */
  #sharedName(): string {
    if (this.#things.length === 0) return this.#freeName();
    const noun = nounOf(this.#random.pick(this.#things).name);
    const names = THINGS.filter((name) => nounOf(name) === noun && !this.#names.has(name));
    return names.length > 0 ? this.#random.pick(names) : this.#freeName();
  }

  #lay(thing: Thing, place: Place): void {
    thing.place = place;
    this.#rest(thing);
  }

  #hold(thing: Thing, who: Person): void {
    thing.holder = who;
    who.carries = thing;
    this.#rest(thing);
  }

  #rest(thing: Thing): void {
    thing.restsUntil = this.#now + this.#random.logarithmic(...thing.calm);
  }

  // People

  #go(who: Person, place: Place): void {
    who.place = place;
    who.restsUntil = this.#now + 60;
  }

  #walk(random: Random): Sentence | null {
    const who = this.#due(this.#people);
    if (who === null) return null;
    const from = who.place;
    const to = this.#elsewhere(PLACES, from);
    this.#go(who, to);
    const values = { who: who.name, from: from.the, to: to.the, at: to.at, why: random.pick(sentences.WHY) };
    return event(fill(random.pick(sentences.WALKS), values), [personIs(who)]);
  }

  #stay(random: Random): Sentence {
    const who = random.pick(this.#people);
    const { anywhere } = sentences.STAYS;
    const list = random.chance(0.5) ? anywhere : sentences.STAYS[who.place.surroundings];
    const values = { who: who.name, other: this.#other(who.name), at: who.place.at };
    return plain(fill(random.pick(list), values), [personIs(who)]);
  }

  #other(name: string): string {
    for (;;) {
      const other = this.#random.pick(PEOPLE);
      if (other !== name) return other;
    }
  }

  // Boats

  #sail(random: Random): Sentence | null {
    const boat = this.#due(this.#boats);
    if (boat === null) return null;
    boat.restsUntil = this.#now + random.logarithmic(60, 600);
    const name = the(boat.name);
    const noCargo = [{ kind: "cargo", subject: boat.name }] as const;
    if (boat.mooring === null) {
      const at = random.pick(MOORINGS);
      boat.mooring = at;
      const values = { boat: name, sea: random.pick(sentences.SEAS), at: at.at };
      if (random.chance(0.3)) {
        boat.cargo = null;
        return event(fill(random.pick(sentences.EMPTY_ARRIVALS), values), [boatIs(boat)], noCargo);
      }
      boat.cargo = random.pick(CARGOES);
      const text = fill(random.pick(sentences.ARRIVALS), { ...values, cargo: boat.cargo });
      return event(text, [boatIs(boat), cargoIs(boat)]);
    }
    const from = boat.mooring;
    switch (random.weighted([40, 25, 35])) {
      case 0: {
        boat.mooring = null;
        return event(fill(random.pick(sentences.DEPARTURES), { boat: name, from: from.the }), [boatIs(boat)]);
      }
      case 1: {
        const to = this.#elsewhere(MOORINGS, from);
        boat.mooring = to;
        const values = { boat: name, from: from.the, to: to.the, at: to.at };
        return event(fill(random.pick(sentences.SHIFTS), values), [boatIs(boat)]);
      }
      default: {
        const { cargo } = boat;
        if (cargo !== null && this.#said.has(cargoKey(boat))) {
          boat.cargo = null;
          return event(fill(random.pick(sentences.UNLOADS), { boat: name, cargo }), [], noCargo);
        }
        boat.cargo = random.pick(CARGOES);
        this.#said.add(cargoKey(boat));
        const values = { boat: name, cargo: boat.cargo };
        return event(fill(random.pick(sentences.LOADS), values), [cargoIs(boat)]);
      }
    }
  }

  #restateBoat(random: Random): Sentence {
    const boat = random.pick(this.#boats);
    const values = { boat: the(boat.name), who: random.pick(PEOPLE) };
    const { cargo, mooring } = boat;
    if (cargo !== null && random.chance(0.4)) {
      this.#said.add(cargoKey(boat));
      return plain(fill(random.pick(sentences.CARGO_RESTS), { ...values, cargo }), [cargoIs(boat)]);
    }
    if (mooring === null) return plain(fill(random.pick(sentences.AT_SEA), values), [boatIs(boat)]);
    const text = fill(random.pick(sentences.BOAT_RESTS), { ...values, at: mooring.at });
    return plain(text, [boatIs(boat)]);
  }

  // The town

  #scene(random: Random): Sentence {
    const fact = imagineScene(random);
    const { at } = PLACES.find(({ name }) => name === fact.subject)!;
    return plain(`${at}, ${fact.value}.`, [fact]);
  }

  #weatherOrTide(random: Random): Sentence {
    const who = random.pick(PEOPLE);
    if (random.chance(0.35)) {
      const turns = !this.#said.has("tide") || random.chance(0.7);
      this.#said.add("tide");
      const old = TIDES[this.#tide]!;
      if (turns) this.#tide = (this.#tide + 1) % TIDES.length;
      const tide = TIDES[this.#tide]!;
      const states: Fact[] = [{ kind: "tide", subject: "tide", value: tide }];
      if (turns) return event(fill(random.pick(sentences.TIDE_TURNS), { tide, old }), states);
      return plain(fill(random.pick(sentences.TIDE_STAYS), { tide, who }), states);
    }
    const turns = !this.#said.has("weather") || random.chance(0.6);
    this.#said.add("weather");
    const old = this.#weather;
    while (turns && this.#weather === old) this.#weather = random.pick(WEATHERS);
    const values = { weather: this.#weather, old, who };
    const states: Fact[] = [{ kind: "weather", subject: "weather", value: this.#weather }];
    if (turns) return event(fill(random.pick(sentences.WEATHER_TURNS), values), states);
    return plain(fill(random.pick(sentences.WEATHER_STAYS), values), states);
  }

  #price(random: Random): Sentence {
    const good = random.pick(GOODS);
    const old = this.#prices.get(good)!;
    const changes = !this.#said.has(good) || random.chance(0.6);
    this.#said.add(good);
    let price = old;
    while (changes && price === old) price = random.between(2, 12);
    this.#prices.set(good, price);
    const value = NUMBERS[price - 1]!;
    const values = { good, old: NUMBERS[old - 1]!, price: value, who: random.pick(PEOPLE) };
    const states: Fact[] = [{ kind: "price", subject: good, value }];
    if (!changes) return plain(fill(random.pick(sentences.PRICE_STAYS), values), states);
    const list = price > old ? sentences.PRICE_RISES : sentences.PRICE_FALLS;
    return event(fill(random.pick(list), values), states);
  }

  #job(random: Random): Sentence {
    const job = random.pick(JOBS);
    const old = this.#jobs.get(job)!;
    const changes = !this.#said.has(job) || random.chance(0.6);
    this.#said.add(job);
    const who = changes ? this.#other(old) : old;
    this.#jobs.set(job, who);
    const states: Fact[] = [{ kind: "job", subject: job, value: who }];
    if (changes) {
      return event(fill(random.pick(sentences.JOB_CHANGES), { job, who, other: old }), states);
    }
    return plain(fill(random.pick(sentences.JOB_STAYS), { job, who, other: this.#other(who) }), states);
  }

  #restateDay(random: Random): Sentence {
    const day = DAYS[this.#day]!;
    const text = fill(random.pick(sentences.DAY_STAYS), { day, who: random.pick(PEOPLE) });
    return plain(text, [{ kind: "day", subject: "day", value: day }]);
  }

  #colour(random: Random): Sentence {
    const weather = random.chance(0.35) ? sentences.WEATHER_COLOUR[this.#weather] : undefined;
    return plain(random.pick(weather ?? sentences.COLOUR), []);
  }

  #peopleColour(random: Random): Sentence {
    const who = random.pick(PEOPLE);
    return plain(fill(random.pick(sentences.PEOPLE_COLOUR), { who, other: this.#other(who) }), []);
  }

  // Choices

  /** One of `list` that has rested for long enough. */
  #due<T extends { readonly restsUntil: number }>(list: readonly T[]): T | null {
    const due = list.filter(({ restsUntil }) => restsUntil <= this.#now);
    return due.length > 0 ? this.#random.pick(due) : null;
  }

  #elsewhere(places: readonly Place[], from: Place): Place {
    for (;;) {
      const place = this.#random.pick(places);
      if (place !== from) return place;
    }
  }
}

/** Something that may go on somewhere in the town. */
export function imagineScene(random: Random): Fact {
  const place = random.pick(PLACES);
  const number = random.chance(0.5) ? "one" : "many";
  const animals = random.chance(0.2);
  const who = random.pick((animals ? sentences.SCENE_ANIMALS : sentences.SCENE_PEOPLE)[number]);
  const { anywhere, [place.surroundings]: here } = sentences.SCENE_DOINGS;
  const doings = animals ? sentences.SCENE_ANIMAL_DOINGS : random.chance(0.5) ? anywhere : here;
  const value = `${who} ${number === "one" ? "was" : "were"} ${random.pick(doings)}`;
  return { kind: "scene", subject: place.name, value };
}

const EVENTS = Town.events;
const EVENT_WEIGHTS = EVENTS.map(({ weight }) => weight);
const VARIED_WEIGHTS = EVENT_WEIGHTS.map(Math.sqrt);

const event = (text: string, states: readonly Fact[], ends: Sentence["ends"] = []): Sentence => ({
  text,
  states,
  ends,
  event: true,
});

const plain = (text: string, states: readonly Fact[]): Sentence => ({ text, states, ends: [], event: false });

const nounOf = (name: string): string => name.slice(name.indexOf(" ") + 1);

const whereIs = ({ name, place, holder }: Thing): Fact => ({
  kind: "thing",
  subject: name,
  value: holder === null ? place.at : `with ${holder.name}`,
});
const carries = (who: Person, thing: Thing): Fact => ({
  kind: "carries",
  subject: who.name,
  value: the(thing.name),
});
const personIs = ({ name, place }: Person): Fact => ({ kind: "person", subject: name, value: place.at });
const boatIs = ({ name, mooring }: Boat): Fact => ({
  kind: "boat",
  subject: name,
  value: mooring === null ? "at sea" : mooring.at,
});
const cargoIs = ({ name, cargo }: Boat): Fact => ({ kind: "cargo", subject: name, value: cargo! });
const cargoKey = ({ name }: Boat): string => `cargo ${name}`;
