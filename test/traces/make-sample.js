// Writes sample.jsonl beside this file: a made-up trace in the format of the Mooncake open traces, small enough to lie here.
// It is no recording: conversations of one to six turns over a system prompt that all share, tools that repeat a long
// prefix, and requests that stand alone; times and lengths drawn by chance, from one seed.
import { writeFileSync } from "node:fs";

const BLOCK = 512;
const REQUESTS = 200;
let state = 20260101;

/** Numbers from 0 up to 1 (mulberry32). */
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}
const between = (from, to) => from + Math.floor(random() * (to - from + 1));
/** Mostly short, seldom long: even on a scale of logarithms. */
const skewed = (from, to) => Math.round(from * (to / from) ** random());

let nextId = 1;
/** Ids of a prompt of so many tokens that goes on from whole blocks that were there before. */
function idsOf(known, length) {
  const ids = known.slice(0, Math.floor(length / BLOCK));
  while (ids.length < Math.ceil(length / BLOCK)) ids.push(nextId++);
  return ids;
}

const requests = [];
function ask(timestamp, inputLength, outputLength, known) {
  const ids = idsOf(known, inputLength);
  requests.push({
    timestamp: Math.round(timestamp),
    input_length: inputLength,
    output_length: outputLength,
    hash_ids: ids,
  });
  return ids.slice(0, Math.floor(inputLength / BLOCK));
}

const system = [0];
const tools = Array.from({ length: 5 }, () => idsOf(system, between(6, 16) * BLOCK));
while (requests.length < REQUESTS) {
  const begin = random() * 120_000;
  const kind = random();
  if (kind < 0.5) {
    let [at, length, known] = [begin, skewed(700, 12_000), system];
    for (let turn = between(1, 6); turn > 0; turn--) {
      const answer = skewed(20, 800);
      known = ask(at, length, answer, known);
      length += answer + skewed(20, 1500);
      at += between(4000, 30_000);
    }
  } else if (kind < 0.85) {
    const known = tools[Math.floor(random() ** 2 * tools.length)];
    ask(begin, known.length * BLOCK + skewed(30, 1200), skewed(5, 200), known);
  } else {
    ask(begin, skewed(200, 30_000), skewed(10, 600), []);
  }
}
requests.length = REQUESTS;
requests.sort((a, b) => a.timestamp - b.timestamp);
const first = requests[0].timestamp;
for (const request of requests) request.timestamp -= first;
const lines = requests.map((request) => JSON.stringify(request));
writeFileSync(new URL("sample.jsonl", import.meta.url), `${lines.join("\n")}\n`);
