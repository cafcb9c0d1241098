/**
 * Rotary position embedding: the frequency of every rotated pair, in radians per position, and the factor on the
 * rotated vectors. Everything that stretches a model's context is settled here, once; kernels see a table.
 *
 * Sources: RoFormer (2104.09864); linear scaling, position interpolation (2306.15595); YaRN (2309.00071);
 * LongRoPE (2402.13753); Llama 3.1's wavelength bands as in its released code.
 */
import { MillraceError } from "../errors.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import type { RopeRef } from "../tape/tape.js";
import type { Hyperparameters } from "./hyperparameters.js";

export type RopeSpec = Omit<RopeRef, "id">;

/** base^(-2i/width) for the width/2 pairs. */
export function plainFrequencies(width: number, base: number): Float64Array {
  return Float64Array.from({ length: width / 2 }, (_, i) => base ** ((-2 * i) / width));
}

/** Every frequency over its own factor, or over one for all. */
export function divide(frequencies: Float64Array, by: number | ArrayLike<number>): Float64Array {
  return frequencies.map((frequency, i) => frequency / (typeof by === "number" ? by : (by[i] ?? 1)));
}

/**
 * Llama 3.1: wavelengths shorter than original/high stay, longer than original/low are divided by `factor`, those
 * between are blended.
 */
export function llama3Frequencies(
  frequencies: Float64Array,
  scaling: { factor: number; low: number; high: number; original: number },
): Float64Array {
  const { factor, low, high, original } = scaling;
  return frequencies.map((frequency) => {
    const turns = (original * frequency) / (2 * Math.PI);
    const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
    return kept * frequency + ((1 - kept) * frequency) / factor;
  });
}

/** YaRN: pairs that turn more than `fast` times in the original context stay, those below `slow` are divided. */
export function yarnFrequencies(
  frequencies: Float64Array,
  scaling: { base: number; factor: number; original: number; fast: number; slow: number },
): Float64Array {
  const { base, factor, original, fast, slow } = scaling;
  const width = 2 * frequencies.length;
  const pairThatTurns = (turns: number) =>
    (width * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(base));
  const low = Math.max(0, Math.floor(pairThatTurns(fast)));
  const high = Math.min(width - 1, Math.ceil(pairThatTurns(slow)));
  return frequencies.map((frequency, i) => {
    const divided = Math.min(1, Math.max(0, (i - low) / Math.max(0.001, high - low)));
    return (1 - divided) * frequency + (divided * frequency) / factor;
  });
}

/** YaRN's factor on queries and keys for a context stretched `factor` times. */
export function yarnMagnitude(factor: number, multiplier = 1): number {
  return factor <= 1 ? 1 : 0.1 * multiplier * Math.log(factor) + 1;
}

/** LongRoPE's factor on queries and keys for a context stretched `factor` times from `original` tokens. */
export function longRopeMagnitude(factor: number, original: number): number {
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
}

export interface RopeQuestion {
  /** Rotated elements of a head. */
  readonly width: number;
  readonly style: RopeRef["style"];
  /** Context that the model was trained for, and that will be used. */
  readonly contextLength: number;
  readonly context: number;
  /** Where the file states no base. */
  readonly defaultBase?: number;
}

/**
 * The rope that the checkpoint's metadata describes. Throws UNSUPPORTED_ARCHITECTURE for a scaling not known here,
 * MISSING_METADATA where a scaling's parameter is absent, BAD_SHAPE for factors of the wrong number, BAD_FORMAT where
 * the values give no finite angles.
 */
export async function readRope(
  checkpoint: Checkpoint,
  values: Hyperparameters,
  question: RopeQuestion,
): Promise<RopeSpec> {
  const read = values.format === "gguf" ? readGgufRope : readHuggingFaceRope;
  const rope = await read(checkpoint, values, question);
  values.check(
    Number.isFinite(rope.magnitude) && rope.frequencies.every((frequency) => Number.isFinite(frequency)),
    "the rotary base, factors and scaling give angles that are no numbers; expected a base above 1 and factors above 0.",
  );
  return rope;
}

async function readGgufRope(
  checkpoint: Checkpoint,
  values: Hyperparameters,
  question: RopeQuestion,
): Promise<RopeSpec> {
  const { width, style, contextLength, context } = question;
  const gguf = (name: string) => ({ gguf: `rope.${name}`, huggingFace: null });
  const base = values.real(gguf("freq_base"), question.defaultBase ?? 10000);
  const factor = values.real(gguf("scaling.factor"), values.real(gguf("scale_linear"), 1));
  const original = values.integer(gguf("scaling.original_context_length"), contextLength);
  const magnitude = values.real(gguf("scaling.attn_factor"), 1);

  const factors =
    (await readFactors(checkpoint, "rope_freqs.weight", width / 2)) ??
    (await readFactors(
      checkpoint,
      context > original ? "rope_factors_long.weight" : "rope_factors_short.weight",
      width / 2,
    ));
  const frequencies = divide(plainFrequencies(width, base), factors ?? 1);

  const type = values.text(gguf("scaling.type"), "linear");
  switch (type) {
    case "none":
    case "longrope":
      return { frequencies, magnitude, style };
    case "linear":
      return { frequencies: divide(frequencies, factor), magnitude, style };
    case "yarn": {
      const fast = values.real(gguf("scaling.yarn_beta_fast"), 32);
      const slow = values.real(gguf("scaling.yarn_beta_slow"), 1);
      const multiplier = values.real(gguf("scaling.yarn_log_multiplier"), null);
      const stretch =
        multiplier === null
          ? yarnMagnitude(factor)
          : yarnMagnitude(factor) / yarnMagnitude(factor, multiplier);
      return {
        frequencies: yarnFrequencies(frequencies, { base, factor, original, fast, slow }),
        magnitude: magnitude * stretch,
        style,
      };
    }
    default:
      throw unknownScaling(checkpoint, type);
  }
}

async function readHuggingFaceRope(
  checkpoint: Checkpoint,
  values: Hyperparameters,
  question: RopeQuestion,
): Promise<RopeSpec> {
  const { width, style, contextLength, context } = question;
  const key = (...names: readonly string[]) => ({
    gguf: null,
    huggingFace: names.flatMap((name) => [
      `rope_scaling.${name}`,
      `rope_parameters.${name}`,
      `rope_parameters.full_attention.${name}`,
    ]),
  });
  const orTop = (name: string) => ({ gguf: null, huggingFace: [...key(name).huggingFace, name] });
  const originalKey = orTop("original_max_position_embeddings");
  const base = values.real(orTop("rope_theta"), question.defaultBase ?? 10000);
  const frequencies = plainFrequencies(width, base);

  const type = values.text(key("rope_type", "type"), "default");
  switch (type) {
    case "default":
      return { frequencies, magnitude: 1, style };
    case "linear":
      return { frequencies: divide(frequencies, values.real(key("factor"))), magnitude: 1, style };
    case "llama3": {
      const scaling = {
        factor: values.real(key("factor")),
        low: values.real(key("low_freq_factor")),
        high: values.real(key("high_freq_factor")),
        original: values.integer(originalKey),
      };
      values.check(
        scaling.high > scaling.low,
        `rope scaling has high_freq_factor ${scaling.high}; expected more than low_freq_factor ${scaling.low}.`,
      );
      return { frequencies: llama3Frequencies(frequencies, scaling), magnitude: 1, style };
    }
    case "yarn": {
      const original = values.integer(originalKey, contextLength);
      const factor = values.real(key("factor"), contextLength / original);
      const multiplier = values.real(key("mscale"), null);
      const multiplierAll = values.real(key("mscale_all_dim"), null);
      const stretch =
        multiplier !== null && multiplierAll !== null
          ? yarnMagnitude(factor, multiplier) / yarnMagnitude(factor, multiplierAll)
          : yarnMagnitude(factor);
      const fast = values.real(key("beta_fast"), 32);
      const slow = values.real(key("beta_slow"), 1);
      return {
        frequencies: yarnFrequencies(frequencies, { base, factor, original, fast, slow }),
        magnitude: values.real(key("attention_factor"), stretch),
        style,
      };
    }
    case "su":
    case "longrope": {
      const original = values.integer(originalKey, contextLength);
      const name = context > original ? "long_factor" : "short_factor";
      const factors = values.reals(key(name));
      checkFactors(checkpoint, name, factors.length, width / 2);
      const stretch = longRopeMagnitude(contextLength / original, original);
      return {
        frequencies: divide(frequencies, factors),
        magnitude: values.real(key("attention_factor"), stretch),
        style,
      };
    }
    default:
      throw unknownScaling(checkpoint, type);
  }
}

/** Reads a small F32 tensor of factors; undefined where the file has none. */
async function readFactors(
  checkpoint: Checkpoint,
  name: string,
  count: number,
): Promise<Float32Array | undefined> {
  const tensor = checkpoint.tensors.get(name);
  if (!tensor) return undefined;
  if (tensor.type !== "F32") {
    throw new MillraceError(
      "UNSUPPORTED_TENSOR_TYPE",
      `${checkpoint.path}: tensor "${name}" is ${tensor.type}; expected F32. Convert the model again.`,
      { tensor: name, got: tensor.type, expected: "F32" },
    );
  }
  checkFactors(checkpoint, name, tensor.shape.length === 1 ? (tensor.shape[0] ?? 0) : 0, count);
  const bytes = new Uint8Array(4 * count);
  await checkpoint.read(name, 0, bytes);
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: count }, (_, i) => view.getFloat32(4 * i, true));
}

function checkFactors(checkpoint: Checkpoint, name: string, got: number, expected: number): void {
  if (got === expected) return;
  throw new MillraceError(
    "BAD_SHAPE",
    `${checkpoint.path}: rotary factors "${name}" number ${got}; expected ${expected}, one per rotated pair. ` +
      "The file is damaged or mixes two models.",
    { tensor: name, got, expected },
  );
}

function unknownScaling(checkpoint: Checkpoint, type: string): MillraceError {
  return new MillraceError(
    "UNSUPPORTED_ARCHITECTURE",
    `${checkpoint.path}: rope scaling is "${type}"; known are linear, llama3, yarn, longrope. Use a file converted ` +
      "without this scaling, or an engine that knows it.",
    { scaling: type },
  );
}
