/** Windows as a network takes them: one after another. */
import type { Window } from "./data.js";
import type { Batch } from "./network-contract.js";

/** A batch of `windows`, all of `length` tokens; weights only where any window has them. */
export function joinWindows(windows: readonly Window[], length: number): Batch {
  const tokens = new Int32Array(windows.length * length);
  const targets = new Int32Array(windows.length * length);
  const weighted = windows.some((window) => window.weights !== null);
  const weights = weighted ? new Float32Array(windows.length * length).fill(1) : null;
  for (const [i, window] of windows.entries()) {
    tokens.set(window.tokens, i * length);
    targets.set(window.targets, i * length);
    if (weights && window.weights) weights.set(window.weights, i * length);
  }
  return { tokens, targets, ...(weights ? { weights } : {}) };
}
