/** Fails with index, got, want and bound at the first element that is further off than its bound (or not a number). */
export function expectClose(
  what: string,
  got: Float32Array,
  want: ArrayLike<number>,
  bound: (index: number) => number,
): void {
  if (got.length !== want.length) throw new Error(`${what}: ${got.length} elements, want ${want.length}`);
  for (let i = 0; i < got.length; i++) {
    if (!(Math.abs(got[i]! - want[i]!) <= bound(i))) {
      let worst = i;
      let wrong = 0;
      for (let j = i; j < got.length; j++) {
        if (!(Math.abs(got[j]! - want[j]!) <= bound(j))) wrong++;
        if (Math.abs(got[j]! - want[j]!) > Math.abs(got[worst]! - want[worst]!)) worst = j;
      }
      throw new Error(
        `${what}: element ${i} of ${got.length}: got ${got[i]}, want ${want[i]}, bound ${bound(i).toExponential(2)}; ` +
          `${wrong} elements are wrong, the furthest is ${worst}: got ${got[worst]}, want ${want[worst]}`,
      );
    }
  }
}

/** Fails with index, got and want at the first element whose bits differ. */
export function expectSameBits(what: string, got: Float32Array, want: Float32Array): void {
  if (got.length !== want.length) throw new Error(`${what}: ${got.length} elements, want ${want.length}`);
  for (let i = 0; i < got.length; i++) {
    if (!Object.is(got[i], want[i])) {
      throw new Error(
        `${what}: element ${i} of ${got.length}: got ${got[i]}, want the same bits as ${want[i]}`,
      );
    }
  }
}
