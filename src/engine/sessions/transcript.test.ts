import { describe, expect, it } from "vitest";
import type { SequenceCache } from "../../cache/sequence.js";
import { StreamState } from "./stream-state.js";
import { REMEMBERED, Transcript } from "./transcript.js";

const ids = (...tokens: number[]) => Int32Array.from(tokens);
const run = (transcript: Transcript, count = transcript.numWaiting) => [...transcript.take(count)];

describe("a transcript", () => {
  it("holds what was run and what waits, in one line of positions", () => {
    const transcript = new Transcript();
    transcript.append(ids(7, 8, 9));
    expect(run(transcript, 2)).toEqual([7, 8]);
    transcript.say(10);
    expect([transcript.ran, transcript.numWaiting, transcript.length]).toEqual([2, 2, 4]);
    expect([...transcript.tail()]).toEqual([7, 8, 9, 10]);
    expect([transcript.ranAt(1), transcript.ranAt(2)]).toEqual([8, undefined]);
    transcript.putBack(2);
    expect([transcript.ran, [...transcript.waiting]]).toEqual([0, [7, 8, 9, 10]]);
  });

  it("forgets the oldest ids of what was run, and none that waits", () => {
    const transcript = new Transcript();
    const all = Int32Array.from({ length: 2 * REMEMBERED }, (_, i) => i);
    transcript.append(all);
    run(transcript, REMEMBERED + 5);
    expect([...transcript.tail()]).toEqual([...all.subarray(5)]);
    expect(transcript.ranAt(4)).toBeUndefined();
  });

  it("knows the question: what was appended last, also when what stands before it is taken back", () => {
    const transcript = new Transcript();
    transcript.append(ids(1, 2, 3, 4));
    transcript.append(ids(5, 6));
    expect([...transcript.question()]).toEqual([5, 6]);
    run(transcript, 1);
    transcript.remove(2, 2);
    expect([...transcript.tail()]).toEqual([1, 2, 5, 6]);
    expect([transcript.lastAppend, [...transcript.question()]]).toEqual([2, [5, 6]]);
    transcript.append(ids());
    expect([...transcript.question()]).toEqual([5, 6]);
    transcript.remove(2, 2);
    expect([...transcript.question()]).toEqual([]);
    transcript.say(9);
    expect([...transcript.question()]).toEqual([9]);
  });

  it("goes back: what was run last waits again where it is known", () => {
    for (const again of [true, false]) {
      const transcript = new Transcript();
      transcript.append(ids(1, 2, 3, 4, 5));
      run(transcript, 4);
      const copy = transcript.copy();
      copy.truncate(3, again);
      expect([copy.ran, copy.length, [...copy.waiting]]).toEqual(again ? [2, 3, [3]] : [3, 3, []]);
      expect([...transcript.tail()]).toEqual([1, 2, 3, 4, 5]);
    }
  });

  it("opens a turn with the first token of an answer, not before", () => {
    const transcript = new Transcript();
    transcript.append(ids(1, 2));
    transcript.before = "turn";
    run(transcript);
    expect(transcript.before).toBe("turn");
    transcript.say(3);
    expect(transcript.before).toBe("answer");
    transcript.truncate(2, true);
    expect(transcript.before).toBe("turn");
  });
});

describe("the tokens of a stop string", () => {
  /** A cache that can always go back, and says how far it was told to. */
  function makeState() {
    const rewound: number[] = [];
    const cache = {
      rewindable: () => "exact",
      rewind: (to: number) => rewound.push(to),
    } as unknown as SequenceCache;
    const state = new StreamState(cache);
    state.transcript.append(ids(1, 2, 3));
    run(state.transcript);
    return { ...state, state, rewound, transcript: state.transcript };
  }
  const say = (transcript: Transcript, ...tokens: number[]) => {
    for (const token of tokens) {
      run(transcript);
      transcript.say(token);
    }
  };

  it("are taken out, and the one before them waits again", () => {
    const { state, transcript, rewound } = makeState();
    say(transcript, 10, 11, 12);
    state.unsay(2);
    expect([...transcript.tail()]).toEqual([1, 2, 3, 10]);
    expect([rewound, [...transcript.waiting], transcript.said]).toEqual([[3], [10], 1]);
  });

  it("stay where something was appended between them: nothing of that goes with them", () => {
    const { state, transcript, rewound } = makeState();
    say(transcript, 10);
    transcript.append(ids(4, 5));
    say(transcript, 11, 12);
    state.unsay(3);
    expect([...transcript.tail()]).toEqual([1, 2, 3, 10, 4, 5, 11, 12]);
    expect(rewound).toEqual([]);
    state.unsay(2);
    expect([...transcript.tail()]).toEqual([1, 2, 3, 10, 4, 5]);
  });
});
