/** Who and what there is in the town. Words are few, and each is one word, so that a small tokenizer knows them whole. */

export const PEOPLE = [
  ...["Mara", "Tom", "Ada", "Ben", "Clara", "Dan", "Edith", "Finn", "Greta", "Hugo", "Ines", "Jonas"],
  ...["Kit", "Lena", "Milo", "Nora", "Otto", "Petra", "Quinn", "Rosa", "Sam", "Tilda", "Una", "Walt"],
] as const;

/** What goes on at a place depends on what it is. */
export type Surroundings = "water" | "indoors" | "outdoors";

export interface Place {
  readonly name: string;
  /** "in the boathouse": every place has one preposition. */
  readonly at: string;
  /** "the boathouse" */
  readonly the: string;
  readonly surroundings: Surroundings;
}

const place = (surroundings: Surroundings, preposition: string) => (name: string) => ({
  name,
  at: `${preposition} the ${name}`,
  the: `the ${name}`,
  surroundings,
});

/** Where boats tie up. */
export const MOORINGS: readonly Place[] = ["pier", "quay", "jetty", "dock", "landing"].map(
  place("water", "at"),
);

export const PLACES: readonly Place[] = [
  ...MOORINGS,
  ...["breakwater", "beach", "slipway"].map(place("water", "on")),
  ...["inn", "mill", "forge", "bakery"].map(place("indoors", "at")),
  ...["boathouse", "lighthouse", "chapel", "cellar", "loft", "shed", "school", "tower"].map(
    place("indoors", "in"),
  ),
  ...["market", "well"].map(place("outdoors", "at")),
  ...["bridge", "hill"].map(place("outdoors", "on")),
  ...["garden"].map(place("outdoors", "in")),
  ...["gate"].map(place("outdoors", "by")),
];

const HARD = [
  ...["key", "box", "kettle", "bell", "compass", "ladder", "bucket", "hammer", "chest", "lamp", "flute"],
  ...["drum", "mirror", "clock", "chair", "cup", "jug", "pot", "spoon", "knife", "ring", "coin", "mask"],
  ...["comb", "crate", "horn", "locket", "whistle", "bowl", "plate", "stool", "anchor"],
];
const SOFT = [
  ...["blanket", "coat", "hat", "scarf", "flag", "sack", "shawl", "cushion", "glove", "apron", "rug"],
];
const FOR_ALL = [
  ...["red", "blue", "green", "white", "black", "yellow", "grey", "brown", "golden", "old", "new", "small"],
  ...["large", "heavy", "round", "dusty", "plain", "odd", "fine", "worn", "painted", "foreign", "stained"],
];
const FOR_HARD = [
  ...["brass", "iron", "copper", "silver", "wooden", "carved", "polished", "rusty", "cracked", "broken"],
];
const FOR_SOFT = ["velvet", "woollen", "patched", "striped", "faded"];

/** Every name of a thing: adjective and noun, "brass key". */
export const THINGS: readonly string[] = [
  ...HARD.flatMap((noun) => [...FOR_ALL, ...FOR_HARD].map((adjective) => `${adjective} ${noun}`)),
  ...SOFT.flatMap((noun) => [...FOR_ALL, ...FOR_SOFT].map((adjective) => `${adjective} ${noun}`)),
];

/** With "a" or "an". */
export const withArticle = (name: string): string => (/^[aeiou]/.test(name) ? `an ${name}` : `a ${name}`);

export const BOATS = ["Heron", "Petrel", "Kestrel", "Tern", "Osprey", "Swan", "Dolphin", "Minnow"] as const;
export const CARGOES = [
  ...["salt", "timber", "coal", "barley", "wool", "tar", "slate", "cider", "flour", "oranges", "glass"],
];
export const GOODS = ["herring", "bread", "butter", "cheese", "honey", "milk", "tea", "soap"];
export const JOBS = [
  ...["baker", "smith", "cooper", "pilot", "ferryman", "watchman", "cook", "piper", "miller", "postman"],
];
export const DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"] as const;
export const NUMBERS = [
  ...["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
];
export const WEATHERS = ["clear", "cloudy", "wet", "misty", "windy", "stormy", "cold", "warm"] as const;
export const TIDES = ["rising", "high", "falling", "low"] as const;
