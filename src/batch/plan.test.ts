import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { type Group, saving, sharingGroups as sharingGroupsOf } from "./groups.js";
import { planBatch, planning } from "./plan.js";
import { type PrefixNode, prefixTree as prefixTreeOf } from "./prefix-tree.js";
import { atOnce, inSlices, SLICE, STEP, sorted } from "./slices.js";
import { sortPrompts } from "./sort.js";

const prefixTree = (...given: Parameters<typeof prefixTreeOf>) => atOnce(prefixTreeOf(...given));
const sharingGroups = (root: PrefixNode) => atOnce(sharingGroupsOf(root));

const prompt = (text: string) => [...text].map((character) => character.charCodeAt(0));
const prompts = (...texts: string[]) => texts.map(prompt);

/** Depths and prompts, as nested lists. */
const shape = ({ depth, prompts, children }: PrefixNode): unknown => [depth, prompts, ...children.map(shape)];

describe("the tree of prefixes", () => {
  it("has a node for each prefix that prompts share", () => {
    const tree = prefixTree(prompts("abcdX", "abcdY", "abZ1", "abZ2", "q", "abQ"));
    expect(shape(tree)).toEqual([0, [4], [2, [5], [3, [2, 3]], [4, [0, 1]]]]);
  });

  it("counts no prompt's last token, and whole pages only", () => {
    expect(shape(prefixTree(prompts("same", "same")))).toEqual([0, [], [3, [0, 1]]]);
    expect(shape(prefixTree(prompts("abcdeX", "abcdeY"), 4))).toEqual([0, [], [4, [0, 1]]]);
    expect(shape(prefixTree(prompts("abX", "abY"), 4))).toEqual([0, [0, 1]]);
  });

  it("holds every prompt once", () => {
    const random = new TestRandom(3);
    for (let round = 0; round < 200; round++) {
      const list = randomPrompts(random, 1 + random.below(9));
      const all: number[] = [];
      const visit = (node: PrefixNode, above: number) => {
        expect(node.depth > above || above === -1).toBe(true);
        all.push(...node.prompts);
        for (const child of node.children) visit(child, node.depth);
      };
      visit(prefixTree(list), -1);
      expect(all.sort((a, b) => a - b)).toEqual(list.map((_, i) => i));
    }
  });
});

/** The most that any assignment of prompts to prefixes above them saves. */
function bruteForce(root: PrefixNode): number {
  const choices: { depth: number; id: number }[][] = [];
  let ids = 0;
  const visit = (node: PrefixNode, above: { depth: number; id: number }[]) => {
    const here = [...above, { depth: node.depth, id: ids++ }];
    for (const _ of node.prompts) choices.push(here);
    for (const child of node.children) visit(child, here);
  };
  visit(root, []);
  let best = 0;
  const assign = (i: number, open: Set<number>, saved: number) => {
    if (i === choices.length) {
      best = Math.max(best, saved);
      return;
    }
    for (const { depth, id } of choices[i]!) {
      if (open.has(id)) assign(i + 1, open, saved + depth);
      else assign(i + 1, new Set([...open, id]), saved);
    }
  };
  assign(0, new Set(), 0);
  return best;
}

const randomPrompts = (random: TestRandom, count: number) =>
  Array.from({ length: count }, () => Array.from({ length: 1 + random.below(8) }, () => random.below(2)));

describe("groups", () => {
  it("save as much as any do, on all small trees that chance makes", () => {
    const random = new TestRandom(5);
    let total = 0;
    for (let round = 0; round < 300; round++) {
      const tree = prefixTree(randomPrompts(random, 2 + random.below(6)));
      const groups = sharingGroups(tree);
      expect(saving(groups)).toBe(bruteForce(tree));
      total += saving(groups);
    }
    expect(total).toBeGreaterThan(500);
  });

  it("leave the longer prefix where that saves more, and the shorter one where many have it", () => {
    const groupsOf = (...texts: string[]) => sharingGroups(prefixTree(prompts(...texts)));
    const members = (groups: readonly Group[]) => groups.map(({ prompts }) => [...prompts].sort());
    // Two long pairs under one short prefix: each pair on its own.
    expect(members(groupsOf("ab12345X", "ab12345Y", "ab67890X", "ab67890Y"))).toEqual([
      [0, 1],
      [2, 3],
    ]);
    // A pair that shares one token more than all five do: together with them.
    expect(members(groupsOf("abcd1", "abcd2", "abcd3", "abcde1", "abcde2"))).toEqual([[0, 1, 2, 3, 4]]);
    expect(groupsOf("abc", "xyz")).toEqual([
      { prefix: 0, prompts: [0] },
      { prefix: 0, prompts: [1] },
    ]);
  });
});

describe("a plan", () => {
  it("runs sharers together, and first those who generate most for what they read", () => {
    const tokens = prompts("system A one", "lone", "system A two", "other B one", "other B two");
    const answers = [10, 1, 10, 100, 100];
    const plan = planBatch(tokens.map((tokens, i) => ({ tokens, answerTokens: answers[i]! })));
    expect(plan.order).toEqual([3, 4, 0, 2, 1]);
    expect(plan.groups.map(({ prefix }) => prefix)).toEqual([8, 9, 0]);
    expect(plan.savedTokens).toBe(17);
    expect(plan.promptTokens).toBe(12 + 4 + 12 + 11 + 11);
  });

  it("counts what a group runs: its prefix once", () => {
    const shared = "x".repeat(500);
    const tokens = Array.from({ length: 1000 }, (_, i) => prompt(`${shared}${String(i).padStart(4, "0")}?`));
    const plan = planBatch(
      tokens.map((tokens) => ({ tokens, answerTokens: 16 })),
      16,
    );
    expect(plan.groups).toHaveLength(1);
    expect(plan.savedTokens).toBe(999 * 496);
    expect(new Set(plan.order).size).toBe(1000);
  });
});

describe("prompts in order", () => {
  it("stand by their tokens, equal ones as they came, with what neighbours share", () => {
    const random = new TestRandom(9);
    for (let round = 0; round < 200; round++) {
      const list = randomPrompts(random, random.below(40));
      const { order, shared } = atOnce(sortPrompts(list));
      const text = (i: number) => list[i]!.map((token) => String.fromCharCode(token)).join("");
      const want = list
        .map((_, i) => i)
        .sort((a, b) => (text(a) < text(b) ? -1 : text(a) > text(b) ? 1 : a - b));
      expect([...order]).toEqual(want);
      const alike = (a: readonly number[], b: readonly number[]) => {
        const parts = a.findIndex((token, at) => token !== b[at]);
        return parts < 0 ? a.length : parts;
      };
      const between = want.map((prompt, i) => (i === 0 ? 0 : alike(list[want[i - 1]!]!, list[prompt]!)));
      expect([...shared]).toEqual(between);
    }
  });

  it("are compared with no token looked at twice that is known to be alike", () => {
    const count = 512;
    const prefix = 1000;
    let reads = 0;
    const prompts = Array.from({ length: count }, (_, i) => {
      const tokens = Array.from({ length: prefix + 1 }, (_, at) => (at === prefix ? (i * 7919) % count : 5));
      return counted(tokens, () => reads++);
    });
    const { order } = atOnce(sortPrompts(prompts));
    expect(order.map((prompt) => (prompt * 7919) % count)).toEqual(
      Int32Array.from({ length: count }, (_, i) => i),
    );
    // Each prompt's prefix once, beside another's, and a few tokens for each comparison of which there are count log2(count).
    expect(reads).toBeLessThan(2 * count * prefix + 4 * count * Math.log2(count));
  });
});

/** Tokens that tell when one of them is looked at. */
const counted = (tokens: readonly number[], onRead: () => void): ArrayLike<number> =>
  new Proxy(tokens, {
    get: (of, key) => {
      if (typeof key === "string" && key !== "length") onRead();
      return Reflect.get(of, key);
    },
  });

describe("planning in slices", () => {
  it("looks at no more tokens in one than a slice has, and one prompt beyond", () => {
    let reads = 0;
    const longest = 400;
    const random = new TestRandom(4);
    const prompts = Array.from({ length: 1500 }, () => {
      const shared = random.below(longest);
      const tokens = Array.from({ length: longest }, (_, at) => (at < shared ? 1 : random.below(1000)));
      return { tokens: counted(tokens, () => reads++), answerTokens: 5 };
    });
    const work = planning(prompts, 16);
    let [slices, most] = [0, 0];
    for (let step = work.next(); !step.done; step = work.next()) {
      slices++;
      most = Math.max(most, reads);
      reads = 0;
    }
    // Two reads to a unit, and two for what decides.
    expect(most).toBeLessThanOrEqual(2 * (SLICE + longest) + (2 * SLICE) / STEP);
    expect(slices).toBeGreaterThan(5);
  });

  it("stands still also where nothing is shared, and in groups of one", () => {
    const prompts = Array.from({ length: 20_000 }, (_, i) => ({ tokens: [i], answerTokens: i % 7 }));
    const work = planning(prompts);
    let slices = 0;
    let step = work.next();
    for (; !step.done; step = work.next()) slices++;
    expect(slices).toBeGreaterThan((20_000 * STEP) / SLICE);
    expect(new Set(step.value.order).size).toBe(20_000);
  });

  it("lets everybody else have a turn after each", async () => {
    const turns: string[] = [];
    const work = (function* () {
      for (const slice of ["one", "two", "three"]) {
        setImmediate(() => turns.push("others"));
        turns.push(slice);
        yield;
      }
      return 5;
    })();
    expect(await inSlices(work)).toBe(5);
    expect(turns).toEqual(["one", "others", "two", "others", "three", "others"]);
  });

  it("comes to the same as in one go", async () => {
    const random = new TestRandom(6);
    const prompts = randomPrompts(random, 300).map((tokens) => ({ tokens, answerTokens: random.below(9) }));
    expect(await inSlices(planning(prompts, 2))).toEqual(planBatch(prompts, 2));
  });
});

describe("sorting in slices", () => {
  it("is what sort does", () => {
    const random = new TestRandom(8);
    for (let round = 0; round < 100; round++) {
      const items = Array.from({ length: random.below(70) }, (_, id) => ({ id, key: random.below(9) }));
      const compare = (a: { key: number }, b: { key: number }) => b.key - a.key;
      const before = [...items];
      expect(atOnce(sorted(items, compare))).toEqual([...items].sort(compare));
      expect(items).toEqual(before);
    }
  });
});
