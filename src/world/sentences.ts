/**
 * The sentences of the log. Slots: `who` and `other` are people, `thing` "the brass key", `new` "a brass key", `at` "in
 * the boathouse", `from` and `to` "the pier", `how` and `why` a few words with a space before them, or none.
 *
 * A sentence that changes a fact says whom it is about before it says the new value, and says both.
 */
import { templates } from "./text.js";
import type { Surroundings } from "./vocabulary.js";

/** A person takes a thing to another place. */
export const MOVES = templates(
  "{who} carried {thing}{how} from {from} to {to}.",
  "{who} took {thing}{how} from {from} to {to}.",
  "{who} brought {thing}{how} from {from} to {to}.",
  "{who} moved {thing}{how} from {from} to {to}.",
  "{who} carried {thing} away from {from} and left it {at}.",
  "{who} fetched {thing} from {from} and put it {at}.",
  "{who} needed {thing} and took it{how} from {from} to {to}.",
  "{who} carried {thing}{how} to {to}.",
  "{who} brought {thing}{how} to {to}.",
  "{who} left {thing} {at}.",
  "{who} put {thing} {at}.",
  "{who} set {thing} down {at}.",
  "{who} hid {thing} {at}.",
  "{who} found a better place for {thing} {at}.",
);

/** Nobody says who moved it. */
export const PASSIVE_MOVES = templates(
  "{thing} was carried{how} from {from} to {to}.",
  "{thing} was moved{how} from {from} to {to}.",
  "{thing} went{how} from {from} to {to}.",
  "{thing} was taken{how} to {to}.",
  "{thing} was left {at}.",
  "somebody carried {thing}{how} from {from} to {to}.",
  "the children took {thing}{how} from {from} to {to}.",
  "{thing} left {from} and was put {at}.",
);

/** How a thing is carried. */
export const HOW = [
  "",
  "",
  "",
  " in a cart",
  " with great care",
  " without a word",
  " at last",
  " with some trouble",
];
export const BY_HAND = [...HOW, " under one arm", " in both hands"];
export const IN_RAIN = [...HOW, " through the rain"];

export const REST_OF_THINGS = templates(
  "{thing} was still {at}.",
  "{thing} still lay {at}.",
  "{thing} had not been moved and was {at}.",
  "{thing} stood {at}, where it had been left.",
  "nobody had touched {thing} {at}.",
  "a cat slept beside {thing} {at}.",
  '"{thing} is {at}," said {who}.',
  '"you will find {thing} {at}," said {who}.',
  '"who left {thing} {at}?" asked {who}.',
  '"{thing} is still {at}," {who} told the children.',
);

/** A person takes a thing along. */
export const TAKES = templates(
  "{thing} was given to {who}.",
  "{thing} was handed to {who}.",
  "{thing} was lent to {who}.",
  "{thing} was now with {who}.",
  "{who} picked up {thing} and kept it.",
  "{who} took charge of {thing}.",
  "{who} took {thing} along.",
);

export const GIVES = templates(
  "{who} gave {thing} to {other}.",
  "{who} handed {thing} to {other}.",
  "{who} lent {thing} to {other}.",
  "{thing} went from {who} to {other}.",
  "{thing} passed from {who} to {other}.",
);

export const STILL_CARRIES = templates(
  "{who} still had {thing}.",
  "{who} was still carrying {thing}.",
  "{thing} was still with {who}.",
  '"{thing} is with {who}," said {other}.',
);

export const PUTS_DOWN = templates(
  "{who} put {thing} down {at}.",
  "{who} set {thing} down {at}.",
  "{who} left {thing} {at}.",
  "{who} brought {thing} to {to} and left it there.",
);

/** A thing that the log did not know. */
export const FINDS = templates(
  "{who} found {new} {at}.",
  "{who} bought {new} and left it {at}.",
  "{who} made {new} and put it {at}.",
  "{who} dug up {new} and left it {at}.",
);
export const TURNS_UP = templates(
  "{new} was found {at}.",
  "{new} turned up {at}.",
  "a pedlar left {new} {at}.",
  "the children found {new} {at}.",
);

export const GOES_AWAY = templates(
  "{who} sold {thing} to a pedlar.",
  "a pedlar bought {thing} and took it away.",
  "{thing} was sold and left the town.",
  "{thing} was sent away by cart.",
  "{thing} was given away to a stranger.",
);

/** Put away for very long. */
export const STOWS = templates(
  "{who} stowed {new} {at} for safe keeping.",
  "{who} put {new} away {at} for safe keeping.",
  "{who} locked {new} away {at}.",
  "{who} hid {new} {at} for years to come.",
  "{new} was stowed {at} for safe keeping.",
  "{new} was put away {at} for years to come.",
);

export const WALKS = templates(
  "{who} walked from {from} to {to}{why}.",
  "{who} went from {from} to {to}{why}.",
  "{who} hurried from {from} to {to}{why}.",
  "{who} came from {from} to {to}{why}.",
  "{who} left {from} and walked to {to}.",
  "{who} walked to {to}{why}.",
  "{who} went to {to}{why}.",
  "{who} ran to {to}.",
  "{who} sat down {at}{why}.",
  "{who} stopped {at}{why}.",
);
export const WHY = [
  ...["", "", "", " for a rest", " for a talk", " for some air", " on an errand", " with a smile"],
  ...[" to look for work", " to hear the news", " to meet a friend", " at last"],
];

/** What a person does where the person is. */
export const STAYS: Readonly<Record<Surroundings | "anywhere", ReturnType<typeof templates>>> = {
  anywhere: templates(
    "{who} was still {at}.",
    "{who} was talking with a friend {at}.",
    "{who} was resting {at}.",
    "{who} ate bread and cheese {at}.",
    "{who} was singing {at}.",
    "{who} was waiting {at}.",
    "{who} told an old story {at}.",
    "{who} was working {at}.",
    '"{who} is {at}," said {other}.',
    '"I saw {who} {at}," said {other}.',
  ),
  water: templates(
    "{who} was mending a net {at}.",
    "{who} looked out to sea {at}.",
    "{who} was fishing {at}.",
    "{who} was watching the boats {at}.",
    "{who} coiled the ropes {at}.",
  ),
  indoors: templates(
    "{who} was sweeping the floor {at}.",
    "{who} drank tea {at}.",
    "{who} was playing cards {at}.",
    "{who} lit a fire {at}.",
    "{who} was mending a shirt {at}.",
  ),
  outdoors: templates(
    "{who} was feeding the hens {at}.",
    "{who} picked flowers {at}.",
    "{who} was playing a fiddle {at}.",
    "{who} was talking to a dog {at}.",
    "{who} sat in the grass {at}.",
  ),
};

/** Boats: `boat` is "the Heron", `sea` where it comes from. */
export const ARRIVALS = templates(
  "{boat} came in from {sea} with a cargo of {cargo} and tied up {at}.",
  "{boat} arrived from {sea} with {cargo} and made fast {at}.",
  "{boat} came home with a cargo of {cargo} and dropped anchor {at}.",
  "{boat} sailed in with {cargo} below deck and tied up {at}.",
);
export const EMPTY_ARRIVALS = templates(
  "{boat} came in from {sea} and tied up {at}.",
  "{boat} came home on the wind and made fast {at}.",
  "{boat} sailed in with an empty hold and tied up {at}.",
);
export const SEAS = ["the north", "the south", "the islands", "the open sea", "the far coast", "the east"];
export const DEPARTURES = templates(
  "{boat} cast off from {from} and was soon at sea.",
  "{boat} left {from} and was at sea again.",
  "{boat} sailed away from {from} and was at sea.",
);
export const SHIFTS = templates(
  "{boat} moved from {from} to {to}.",
  "{boat} was towed from {from} to {to}.",
  "{boat} left {from} and tied up {at}.",
);
export const LOADS = templates(
  "{boat} took on a cargo of {cargo}.",
  "{boat} was loaded with {cargo}.",
  "{boat} now carried a cargo of {cargo}.",
);
export const UNLOADS = templates(
  "{boat} landed all of its {cargo}.",
  "the last of the {cargo} came off {boat}.",
  "men with carts unloaded the {cargo} from {boat}.",
);
export const BOAT_RESTS = templates(
  "{boat} still lay {at}.",
  "{boat} rocked gently {at}.",
  "{boat} was waiting {at}.",
  "{boat} was still {at}.",
  '"{boat} is {at}," said {who}.',
);
export const AT_SEA = templates(
  "{boat} was still at sea.",
  "nobody could see {boat}, far out at sea.",
  '"{boat} is at sea," said {who}.',
);
export const CARGO_RESTS = templates(
  "{boat} still carried {cargo}.",
  "{boat} was heavy with {cargo}.",
  "{boat} lay low in the water with its {cargo}.",
);

export const WEATHER_TURNS = templates(
  "the weather changed from {old} to {weather}.",
  "the weather turned {weather}.",
  "the weather was {weather} now.",
  "all at once the weather was {weather}.",
);
export const WEATHER_STAYS = templates(
  "the weather was still {weather}.",
  "the weather stayed {weather}.",
  '"the weather is {weather}," said {who}.',
);
/** No statement of the weather, but nothing against it either. */
export const WEATHER_COLOUR: Readonly<Record<string, readonly string[]>> = {
  clear: [
    "there was not a cloud over the harbour.",
    "the far islands could be seen from the hill.",
    "the water shone like glass.",
  ],
  cloudy: [
    "grey clouds hung over the hill.",
    "the light was flat and the sea was grey.",
    "it looked like rain, but no rain came.",
  ],
  wet: [
    "rain ran down the windows.",
    "rain fell on the roofs.",
    "the streets were full of water.",
    "the children jumped over the puddles.",
  ],
  misty: [
    "a horn sounded somewhere in the mist.",
    "the mist hid the masts.",
    "one could hear the boats but not see them.",
  ],
  windy: [
    "the wind pulled at the sails.",
    "somebody ran after a hat in the wind.",
    "the washing danced on the line.",
  ],
  stormy: [
    "waves broke over the wall.",
    "the windows shook in the storm.",
    "all the doors in the street were shut.",
    "the storm made the dogs bark.",
  ],
  cold: ["there was ice on the steps.", "smoke rose from all the chimneys.", "everybody wore thick coats."],
  warm: [
    "the cats slept in the shade.",
    "people sat outside with bare feet.",
    "the stones of the wall were warm to the hand.",
  ],
};

export const TIDE_TURNS = templates(
  "the tide was now {tide}.",
  "the tide changed and was {tide} now.",
  "the tide went from {old} to {tide}.",
);
export const TIDE_STAYS = templates("the tide was still {tide}.", '"the tide is {tide}," said {who}.');

export const PRICE_RISES = templates(
  "the price of {good} rose from {old} to {price} pence.",
  "the price of {good} went up to {price} pence.",
);
export const PRICE_FALLS = templates(
  "the price of {good} fell from {old} to {price} pence.",
  "the price of {good} went down to {price} pence.",
);
export const PRICE_STAYS = templates(
  "the price of {good} was still {price} pence.",
  "the price of {good} stayed at {price} pence.",
  '"the price of {good} is {price} pence," said {who}.',
);

export const JOB_CHANGES = templates(
  "the work of the {job} went from {other} to {who}.",
  "the new {job} was {who}.",
  "the town needed a {job} and chose {who}.",
  "the {job} from now on was {who}.",
);
export const JOB_STAYS = templates(
  "the {job} was still {who}.",
  "the best {job} for miles was {who}.",
  '"the {job} is {who}," said {other}.',
);

/** Who may be seen somewhere, and doing what; people without names, so that nobody is in two places. */
export const SCENE_PEOPLE = {
  one: [
    ...["an old sailor", "a tall stranger", "a young woman", "a small boy", "a little girl", "a fisherman"],
    ...["a tired traveller", "a pedlar", "a soldier", "a farmer", "a boy with a drum", "an old woman"],
  ],
  many: [
    ...["two boys", "three sailors", "some children", "four fishermen", "two old friends", "three sisters"],
    ...["some farmers", "a few people", "the twins", "five girls", "two soldiers", "some travellers"],
  ],
} as const;
export const SCENE_DOINGS: Readonly<Record<Surroundings | "anywhere", readonly string[]>> = {
  anywhere: [
    ...[
      "singing an old song",
      "eating apples",
      "telling stories",
      "playing a game",
      "looking for a lost coin",
    ],
    ...["drinking cider", "arguing about money", "waiting for a friend", "laughing at a joke"],
    ...["reading a letter", "carving a toy boat", "sharing a pie"],
  ],
  water: [
    ...[
      "fishing for crabs",
      "mending a net",
      "coiling ropes",
      "painting a boat",
      "throwing bread to the gulls",
    ],
    ...["watching the waves", "washing a sail", "counting barrels", "waving at a boat", "gathering shells"],
  ],
  indoors: [
    ...[
      "playing cards",
      "sweeping the floor",
      "lighting the lamps",
      "peeling apples",
      "sleeping by the wall",
    ],
    ...["tuning a fiddle", "mending a shirt", "cleaning the windows", "drying wet boots"],
  ],
  outdoors: [
    ...["playing a fiddle", "selling eggs", "chasing a hen", "dancing in a ring", "picking flowers"],
    ...["flying a kite", "leading a goat by a rope", "carrying water", "feeding a donkey"],
  ],
};
export const SCENE_ANIMALS = {
  one: ["a grey cat", "a black dog", "a fat hen", "a brown goat", "a lost donkey", "a young gull"],
  many: ["two dogs", "three cats", "some hens", "two goats", "three ducks", "some gulls"],
} as const;
export const SCENE_ANIMAL_DOINGS = [
  ...["sleeping in a corner", "pulling at a fish", "making a great noise", "looking for food"],
  ...["running in circles", "drinking from a puddle", "stealing bread", "watching the people"],
];

/** Openings of paragraphs. `hour`: "seven". Each part of the day has its own. */
export type DayPart = "night" | "morning" | "afternoon" | "evening";
export const OPENINGS: Readonly<Record<DayPart, readonly string[]>> = {
  night: [
    "The stars were out.",
    "The town was asleep.",
    "An owl called from the hill.",
    "Only the watch was awake.",
    "The sea was loud in the dark.",
    "In the night the boats pulled at their ropes.",
  ],
  morning: [
    "Smoke rose from the bakery.",
    "The gulls were awake early.",
    "The first carts came down the street.",
    "There was a smell of bread.",
    "The morning went by slowly.",
    "The children ran to school.",
    "A cock called behind the mill.",
    "Doors opened all along the street.",
  ],
  afternoon: [
    "The afternoon was slow.",
    "The school bell rang and the children ran out.",
    "There was a smell of tar and fish.",
    "The carts went up and down the street.",
    "A hammer rang at the forge.",
    "The shadows grew longer.",
    "In the afternoon the streets were busy.",
  ],
  evening: [
    "The lamps were lit one by one.",
    "The light was going.",
    "There was a smell of soup.",
    "The evening was quiet.",
    "The sun went down behind the islands.",
    "In the evening people sat by their doors.",
    "A song came from the inn.",
  ],
};
export const AT_HOUR = templates(
  "At {hour} ",
  "At {hour} in the {part} ",
  "Soon after {hour} ",
  "Just before {hour} ",
  "When the bell rang {hour}, ",
);
export const LEADS = [
  ...["A little later ", "After that ", "By and by ", "In the meantime ", "Not long after that "],
];
/** Before a sentence within a paragraph. */
export const LINKS = ["then ", "meanwhile ", "soon ", "later "];

export const NEW_DAY = templates(
  "It was {day} now, and the town woke up.",
  "The sun rose, and it was {day}.",
  "The night was over, and it was {day}.",
);
export const DAY_STAYS = templates(
  "it was {day} all day long, as the children liked to say.",
  '"it is {day} today," said {who}.',
  "it was {day}, and there was much to do.",
);

/** Nothing that anybody would ask about. */
export const COLOUR: readonly string[] = [
  "the bell rang twice.",
  "a dog barked at nothing.",
  "the gulls cried.",
  "a door shut somewhere.",
  "somebody laughed.",
  "nobody knew why.",
  "nobody was surprised.",
  "the ropes creaked.",
  "the soup was good that day.",
  "a cat ran across the street.",
  "the hens made a great noise.",
  "there was fish for dinner, as always.",
  "a cart lost a wheel, and everybody helped.",
  "the old men talked about the war.",
  "the old women talked about the old men.",
  "a child asked for a story.",
  "somebody had left a window open.",
  "the water was green and deep.",
  "a gull stole a piece of bread.",
  "the donkey did not want to move.",
  "there was nothing to do but wait.",
  "it was a good day for washing.",
  "two ducks swam by.",
  "a small boat went by without a name.",
  "the smell of smoke hung in the air.",
  "somewhere a fiddle played.",
  "it took longer than anybody had thought.",
  "the waves came and went.",
  "the goat ate somebody's letter.",
  "a bottle came in on the waves, with nothing in it.",
  "the crabs hid under the stones.",
  "everybody said that the fish had been bigger in the old days.",
  "the cook burned the soup and made another.",
  "there was a long talk about the best way to tie a rope.",
  "a stranger asked the way and went on.",
  "the baby next door would not sleep.",
  "it made no difference to the gulls.",
  "a barrel rolled down the hill, and the dogs ran after it.",
  "the ferry came late, as it often did.",
  "the ferry came and went.",
  "three sailors lost their money at cards.",
  "an apple pie was cooling in a window, and then it was gone.",
  "the carts were full of fish.",
  "somebody was learning to play the flute, and the street was sorry.",
  "the clock in the street was wrong again.",
  "a spider had made its home in the bell.",
  "the seals sang on the rocks.",
  "the dog next door had four puppies.",
  "everything smelled of tar.",
  "the children played that they were sailors.",
];

/** What people say and do that is no fact: `who` is named, but not where. */
export const PEOPLE_COLOUR = templates(
  "{who} hummed an old tune.",
  "{who} said little and smiled.",
  "{who} was hungry.",
  "{who} and {other} were good friends.",
  "{who} laughed at something that {other} had said.",
  "{who} and {other} talked about the old days.",
  "{who} owed {other} some money.",
  "{who} had slept badly.",
  "{who} was in a good mood.",
  "{who} wrote a letter and tore it up.",
  "{who} asked {other} for help.",
  "{who} counted the gulls and gave up.",
  "{who} had a new song.",
  "{who} dreamed of the islands.",
  '"the sea gives and the sea takes," said {who}.',
  '"there is always work to do," said {who}.',
  '"it will be fine tomorrow," said {who}.',
  '"I never liked the sea," said {who}.',
  '"did you hear the bell?" asked {who}.',
  '"my feet are wet," said {who}.',
  '"good morning to you," said {who} to {other}.',
  '"nobody tells me anything," said {who}.',
  '"that is not how my mother did it," said {who}.',
  '"a cat is as good as a friend," {who} told {other}.',
  '"do you have a match?" {who} asked {other}.',
  '"the fish are not what they were," said {who}, and {other} agreed.',
  '"I have seen bigger waves than these," said {who}.',
  '"we should paint the boat before winter," {who} said to {other}.',
  '"ask me again tomorrow," said {who}.',
  '"who rang the bell?" asked {who}, but nobody knew.',
);
