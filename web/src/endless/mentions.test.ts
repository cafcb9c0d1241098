import { expect, it } from "vitest";
import { Mentions } from "./mentions.js";

it("proposes what was put somewhere the longest ago, and nothing that was mentioned since", () => {
  const mentions = new Mentions();
  expect(mentions.oldest(1000)).toBeNull();
  mentions.read(
    0,
    "Mara put the brass key in the boathouse. Tom gave the old lamp to Una. Ben left the red h",
  );
  // A sentence counts from where it ends.
  mentions.read(48, "at on the hill.\nThe tide was high. ");
  expect(mentions.oldest(1000)).toBe("brass key");
  expect(mentions.oldest(0)).toBeNull();
  mentions.read(96, "The brass key went from the boathouse to the pier. ");
  expect(mentions.oldest(1000)).toBe("red hat");
  expect(mentions.oldest(48)).toBeNull();
  mentions.read(144, "Nora took the red hat. ");
  expect(mentions.oldest(1000)).toBe("brass key");
});
