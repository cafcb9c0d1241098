import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { type Group, saving, sharingGroups } from "./groups.js";
import { planBatch } from "./plan.js";
import { type PrefixNode, prefixTree } from "./prefix-tree.js";

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
