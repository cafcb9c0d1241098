import { setFlagsFromString } from "node:v8";

const FACTOR = 100;

/** (module (func (export "f") (result i32) (lane 0 of relaxed_dot_i8x16_i7x16_add (-1, `factor`) onto 0))) */
function probe(factor: number): Uint8Array<ArrayBuffer> {
  const body = [
    0x00, // no locals
    ...[0x41, 0x7f, 0xfd, 0x0f], // i8x16.splat(-1)
    ...[0x41, factor | 0x80, 0x00, 0xfd, 0x0f], // i8x16.splat(factor)
    ...[0x41, 0x00, 0xfd, 0x11], // i32x4.splat(0)
    ...[0xfd, 0x93, 0x02, 0xfd, 0x1b, 0x00, 0x0b],
  ];
  return new Uint8Array([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00], // magic, version
    ...[0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7f], // type: () -> i32
    ...[0x03, 0x02, 0x01, 0x00], // one function of it
    ...[0x07, 0x05, 0x01, 0x01, 0x66, 0x00, 0x00], // exported as "f"
    ...[0x0a, body.length + 2, 0x01, body.length, ...body],
  ]);
}

/** Whether the dot product takes its first factor as signed, as it must. A factor used once is compiled afresh. */
function dotsRight(factor: number): boolean {
  const { f } = new WebAssembly.Instance(new WebAssembly.Module(probe(factor))).exports;
  return (f as () => number)() === -4 * factor;
}

/**
 * Whether relaxed SIMD runs here, and rightly. V8 before 11.4 (Node 20) has it behind a flag, which is set where it
 * is needed. There its baseline compiler swaps the factors of the int8 dot product on x64, while its optimising
 * compiler does not; where the probe shows that, the baseline compiler is switched off for this process.
 */
export function hasRelaxedSimd(): boolean {
  if (!WebAssembly.validate(probe(FACTOR))) setFlagsFromString("--experimental-wasm-relaxed-simd");
  if (!WebAssembly.validate(probe(FACTOR))) return false;
  if (dotsRight(FACTOR)) return true;
  setFlagsFromString("--no-liftoff");
  return dotsRight(FACTOR + 1);
}
