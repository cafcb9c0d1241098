import { describe, expect, it } from "vitest";
import { sourceOf } from "./source.js";

const blocks = [
  {
    first: 84,
    last: 131,
    text: 'o the inn with a smile. "That is not how my mother did it," said Kit. Edith stowed a painted mask at the dock for safe keeping. Greta fetched',
  },
  {
    first: 308,
    last: 355,
    text: "There was a smell of bread. The painted mask was admired at the fair. It rained at the dock.",
  },
];

describe("sourceOf", () => {
  it("finds the block and the sentence that say what the answer says of what was asked", () => {
    expect(sourceOf(blocks, "Where is the painted mask now?", "The painted mask is at the dock.")).toEqual({
      block: blocks[0],
      sentence: "Edith stowed a painted mask at the dock for safe keeping.",
    });
  });

  it("takes what was said last where it was said twice", () => {
    const again = { first: 500, last: 547, text: "The painted mask was still at the dock." };
    expect(
      sourceOf([again, ...blocks], "Where is the painted mask?", "The painted mask is at the dock.")?.block
        .first,
    ).toBe(500);
  });

  it("names none where no block has words of both, and where nothing came back", () => {
    expect(sourceOf(blocks, "Where is the painted mask?", "The painted mask is in the chapel.")).toBeNull();
    expect(sourceOf(blocks, "Who is the baker?", "The baker is Tilda.")).toBeNull();
    expect(sourceOf(blocks, "Where is the painted mask?", "")).toBeNull();
    expect(sourceOf([], "Where is the painted mask?", "The painted mask is at the dock.")).toBeNull();
  });
});
