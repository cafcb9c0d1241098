import { describe, expect, it } from "vitest";
import { besides, type Conversation, leafAfter, merge, pathTo, type Turn } from "./tree.js";

const turn = (id: string, parent: string | null, rest: Partial<Turn> = {}): Turn => ({
  id,
  parent,
  role: id.startsWith("q") ? "user" : "assistant",
  content: id,
  ...rest,
});
const of = (turns: readonly Turn[], leaf: string | null, rest: Partial<Conversation> = {}): Conversation => ({
  id: "c",
  changed: 0,
  turns,
  leaf,
  ...rest,
});
/** q1 was answered twice; the second answer was asked about, in two ways. */
const TURNS = [turn("q1", null), turn("a1", "q1"), turn("a2", "q1"), turn("q2", "a2"), turn("q3", "a2")];
const ids = (turns: readonly Turn[]) => turns.map(({ id }) => id);

describe("a conversation's turns", () => {
  it("are shown along one path, beside which the others stay", () => {
    const conversation = of(TURNS, "q3");
    expect(ids(pathTo(conversation, "q3"))).toEqual(["q1", "a2", "q3"]);
    expect(ids(pathTo(conversation, "a1"))).toEqual(["q1", "a1"]);
    expect(pathTo(conversation, null)).toEqual([]);
    expect(ids(besides(conversation, TURNS[1]!))).toEqual(["a1", "a2"]);
    expect(ids(besides(conversation, TURNS[4]!))).toEqual(["q2", "q3"]);
  });

  it("lead from any of them to what was said last after it", () => {
    expect(leafAfter(of(TURNS, null), "q1")).toBe("q3");
    // Not what was said last of the answers, but what goes on after the first of them.
    expect(leafAfter(of([...TURNS, turn("q4", "a1")], null), "q1")).toBe("q4");
    expect(leafAfter(of(TURNS, null), "a1")).toBe("a1");
  });

  it("end, also where a damaged copy has a turn that follows itself", () => {
    const turns = [turn("q1", "a1"), turn("a1", "q1")];
    expect(ids(pathTo({ turns }, "a1"))).toEqual(["q1", "a1"]);
    expect(["q1", "a1"]).toContain(leafAfter(of(turns, null), "q1"));
  });
});

describe("two copies of a conversation", () => {
  const [q1, a1] = [turn("q1", null), turn("a1", "q1")];

  it("become one that has the turns of both, and shows what is shown here", () => {
    const both = merge(
      of([q1, a1, turn("q2", "a1")], "q2", { changed: 1 }),
      of([q1, a1, turn("q3", "a1")], "q3", { changed: 2 }),
    );
    expect(ids(both.turns).sort()).toEqual(["a1", "q1", "q2", "q3"]);
    expect(both).toMatchObject({ leaf: "q2", changed: 2 });
  });

  it("show what the other tab went on with, where nothing was said here meanwhile", () => {
    expect(merge(of([q1], "q1"), of([q1, a1], "a1")).leaf).toBe("a1");
    // A question that waits for its answer there is not yet what one goes on from here.
    expect(merge(of([q1, a1], "a1"), of([q1, a1, turn("q2", "a1")], "q2")).leaf).toBe("a1");
  });

  it("keep an answer that ended, and the title given last", () => {
    const open = turn("a1", "q1", { content: "Th", end: null });
    const whole = turn("a1", "q1", { content: "The end", end: "stop" });
    for (const both of [
      merge(of([q1, open], "a1"), of([q1, whole], "a1")),
      merge(of([q1, whole], "a1"), of([q1, open], "a1")),
    ])
      expect(both.turns[1]).toEqual(whole);
    const [early, late] = [
      { text: "Early", at: 1 },
      { text: "Late", at: 2 },
    ];
    expect(merge(of([q1], "q1", { title: late }), of([q1], "q1", { title: early })).title).toEqual(late);
    expect(merge(of([q1], "q1", { title: early }), of([q1], "q1", { title: late })).title).toEqual(late);
    expect(merge(of([q1], "q1"), of([q1], "q1")).title).toBeUndefined();
  });
});
