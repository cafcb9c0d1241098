import { type CachePolicy, NOTHING } from "../contract.js";

/** Keeps every token. What does not fit the byte budget is refused before it is run, never dropped. */
export const full = (): CachePolicy => ({
  id: "full",
  keepsAll: true,
  capacity: ({ tokens }) => tokens,
  plan: () => NOTHING,
});
