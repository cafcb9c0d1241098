/**
 * The largest multiple of `step` for which `bytesOf` stays within `budget`; 0 where not even `step` does. `bytesOf`
 * should grow with its argument: where it is nearly a straight line, a few calls are enough.
 */
export async function longestFitting(
  budget: number,
  step: number,
  bytesOf: (length: number) => Promise<number>,
): Promise<number> {
  // In steps: the most that fit, and the fewest that do not.
  let [fitting, tooMany] = [0, Number.POSITIVE_INFINITY];
  let before = { steps: 0, bytes: 0 };
  let guess = 1;
  for (let calls = 1; tooMany - fitting > 1; calls++) {
    const bytes = await bytesOf(guess * step);
    if (bytes <= budget) fitting = guess;
    else tooMany = guess;
    // On along the line through the last two, or by halves where that gets nowhere.
    const line = guess + ((budget - bytes) * (guess - before.steps)) / (bytes - before.bytes);
    before = { steps: guess, bytes };
    const halves = Number.isFinite(tooMany) ? (fitting + tooMany) / 2 : 2 * fitting;
    const next = Math.floor(Number.isFinite(line) && calls % 3 !== 0 ? line : halves);
    guess = Math.min(Math.max(next, fitting + 1), tooMany - 1, 2 ** 24);
    if (guess <= fitting) break;
  }
  return fitting * step;
}
