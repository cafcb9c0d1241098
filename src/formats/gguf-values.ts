/** Typed metadata of GGUF files, as the reader finds it and the writer takes it. */
import type { MetadataValue } from "./checkpoint.js";

/** Value types by their number in the file (enum gguf_metadata_value_type). */
export const GGUF_VALUE_TYPES = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  "array",
  "u64",
  "i64",
  "f64",
] as const;

export type GgufValueType = (typeof GGUF_VALUE_TYPES)[number];

export type GgufNumberType = Exclude<GgufValueType, "bool" | "string" | "array" | "u64" | "i64">;

export const NUMBER_BYTES: Readonly<Record<GgufNumberType, number>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  f64: 8,
};

export interface GgufArray {
  readonly type: "array";
  readonly of: GgufValueType;
  /** Plain values of type `of`; for `of: "array"` the items are `GgufArray`s. */
  readonly value: readonly (number | bigint | boolean | string | GgufArray)[];
}

export type GgufValue =
  | { readonly type: GgufNumberType; readonly value: number }
  /** 64-bit integers are numbers while they are exact and bigints beyond 2^53. */
  | { readonly type: "u64" | "i64"; readonly value: number | bigint }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | GgufArray;

/** Short constructors: `{ "llama.block_count": u32(22), "general.name": string("tiny") }`. */
export const u32 = (value: number): GgufValue => ({ type: "u32", value });
export const i32 = (value: number): GgufValue => ({ type: "i32", value });
export const u64 = (value: number | bigint): GgufValue => ({ type: "u64", value });
export const f32 = (value: number): GgufValue => ({ type: "f32", value });
export const bool = (value: boolean): GgufValue => ({ type: "bool", value });
export const string = (value: string): GgufValue => ({ type: "string", value });
export const array = (of: GgufValueType, value: GgufArray["value"]): GgufArray => ({
  type: "array",
  of,
  value,
});

/** The value without its type; flat arrays are shared, not copied. */
export function plainValue(value: GgufValue): MetadataValue {
  return value.type === "array" ? plainArray(value) : value.value;
}

function plainArray(array: GgufArray): readonly MetadataValue[] {
  if (array.of !== "array") return array.value as readonly MetadataValue[];
  return (array.value as readonly GgufArray[]).map(plainArray);
}
