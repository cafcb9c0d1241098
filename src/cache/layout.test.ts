import { describe, expect, it } from "vitest";
import type { KvLayer } from "../tape/tape.js";
import { codecs } from "./codecs/index.js";
import { perHead, perLayer } from "./lanes.js";
import { type LayoutOptions, pagesFor, planLayout } from "./layout.js";
import { full } from "./policies/full.js";
import { window } from "./policies/window.js";

const layer = (index: number, own: number | null = null, headWidth = 64): KvLayer => ({
  layer: index,
  numKvHeads: 2,
  headWidth,
  window: own,
});

const plan = (kv: KvLayer[], options: Partial<LayoutOptions> = {}) =>
  planLayout({ kv, policy: full(), codec: "f16", step: 128, ...options });

describe("planLayout", () => {
  it("puts lanes that are alike into one group, in order", () => {
    const { groups, pageBytes } = plan([layer(0), layer(1)]);
    expect(groups).toHaveLength(1);
    expect(groups[0]!.lanes).toEqual([
      { layer: 0, head: 0 },
      { layer: 0, head: 1 },
      { layer: 1, head: 0 },
      { layer: 1, head: 1 },
    ]);
    expect(groups[0]!.pageTokens).toBe(64);
    expect(pageBytes).toBe(4 * codecs.f16.groupBytes(64));
  });

  it("gives layers with a sliding window a group whose capacity is that window and a step", () => {
    const layout = plan([layer(0, 256), layer(1), layer(2, 256)]);
    expect(layout.groups.map(({ lanes }) => lanes.map((lane) => lane.layer))).toEqual([
      [0, 0, 2, 2],
      [1, 1],
    ]);
    const endless = { tokens: Number.POSITIVE_INFINITY, step: 128 };
    expect(layout.groups.map(({ policy }) => policy.capacity(endless))).toEqual([
      255 + 128,
      Number.POSITIVE_INFINITY,
    ]);
  });

  it("cuts pages of one size for all groups, each with as many whole groups of 16 tokens as fit", () => {
    const codec: LayoutOptions["codec"] = ({ layer: index }) => (index === 0 ? "f32" : "int8");
    const { groups, pageBytes } = plan([layer(0), layer(1), layer(2, null, 20)], { codec, pageTokens: 32 });
    expect(pageBytes).toBe(2 * codecs.f32.groupBytes(64));
    for (const { codec: name, headWidth, pageTokens } of groups) {
      const bytes = codecs[name].groupBytes(headWidth);
      expect((pageTokens / 16) * bytes).toBeLessThanOrEqual(pageBytes);
      expect((pageTokens / 16 + 1) * bytes).toBeGreaterThan(pageBytes);
    }
  });

  it("makes smaller pages for small windows", () => {
    const tokens = (held: number) =>
      plan([layer(0)], { policy: window({ tokens: held }) }).groups[0]!.pageTokens;
    expect([1000, 256, 255, 128, 64, 3].map(tokens)).toEqual([64, 64, 32, 32, 16, 16]);
  });

  it("follows policies by layer and by head, and names those that are missing", () => {
    const [small, large] = [window({ tokens: 32 }), window({ tokens: 64 })];
    const byLayer = plan([layer(0), layer(1)], { policy: perLayer([small, large]) });
    expect(byLayer.groups.map(({ policy }) => policy.id)).toEqual([small.id, large.id]);
    const byHead = plan([layer(0), layer(1)], {
      policy: perHead([
        [small, large],
        [window({ tokens: 64 }), window({ tokens: 32 })],
      ]),
    });
    expect(byHead.groups.map(({ lanes }) => lanes)).toEqual([
      [
        { layer: 0, head: 0 },
        { layer: 1, head: 1 },
      ],
      [
        { layer: 0, head: 1 },
        { layer: 1, head: 0 },
      ],
    ]);
    expect(() => plan([layer(0), layer(1)], { policy: perLayer([small]) })).toThrow(/layer 1/);
    expect(() => plan([layer(0)], { policy: perHead([[small]]) })).toThrow(/head 1 of layer 0/);
  });

  it("has another fingerprint for anything that saved pages depend on", () => {
    const kv = [layer(0), layer(1)];
    const prints = [
      plan(kv),
      plan(kv, { codec: "int8" }),
      plan(kv, { pageTokens: 32 }),
      plan(kv, { policy: window({ tokens: 512 }) }),
      plan([layer(0)]),
      plan([layer(0), layer(1, 256)]),
    ].map(({ fingerprint }) => fingerprint);
    expect(new Set(prints).size).toBe(prints.length);
    expect(plan(kv).fingerprint).toBe(prints[0]);
  });

  it("counts the pages of the worst case", () => {
    const layout = plan([layer(0, 256), layer(1)]);
    // 255 + 128 tokens are 6 rows of 64; 1000 tokens are 16; 2 lanes each.
    expect(pagesFor(layout, 1000)).toBe(2 * 6 + 2 * 16);
    expect(pagesFor(layout, 10)).toBe(2 + 2);
    expect(pagesFor(layout, Number.POSITIVE_INFINITY)).toBe(Number.POSITIVE_INFINITY);
  });

  it("refuses page and step sizes that are none", () => {
    for (const pageTokens of [0, 8, 24, 16.5])
      expect(() => plan([layer(0)], { pageTokens })).toThrow(/pageTokens/);
    for (const step of [0, 1.5]) expect(() => plan([layer(0)], { step })).toThrow(/step/);
  });
});
