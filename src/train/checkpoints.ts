/**
 * Training checkpoints: one safetensors file with the weights, the optimiser's state, the losses so far, and in its
 * notes the step and what the run was asked to do. Data and noise are functions of seeds and the step, so the step is
 * also their place.
 *
 * A save replaces the file only when the new one is safe on the disk: a process that dies at any moment leaves the old
 * or the new one, whole.
 */
import { join } from "node:path";
import { MillraceError } from "../errors.js";
import { openFile, readFully, removeAbandoned } from "../formats/file.js";
import { isRecord, parseJson } from "../formats/json.js";
import { readHeader, type SafetensorsHeader } from "../formats/safetensors.js";
import { type SafetensorsTensor, writeSafetensors } from "../formats/safetensors-writer.js";

/** A run's place on the host: everything that it needs to go on as if it had never stopped. */
export interface Snapshot {
  /** Steps that are done. */
  readonly step: number;
  readonly tokens: number;
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly state: ReadonlyMap<string, Float32Array>;
  readonly curve: Curve;
}

/** Losses so far, in nats per token. */
export interface Curve {
  /** Of every step's batch; the first is step 1's. */
  readonly train: number[];
  /** Of the held-out windows, where it was measured. */
  readonly heldOut: { readonly step: number; readonly loss: number }[];
}

/** What a run and the one that continues it must agree on. */
export type Fingerprint = Readonly<Record<string, string | number | boolean | null>>;

const FILE_NAME = "checkpoint.safetensors";
const VERSION = "1";

export const checkpointPath = (folder: string): string => join(folder, FILE_NAME);

/** Replaces the folder's checkpoint. Throws WRITE_FAILED; the one before is intact then. */
export async function saveCheckpoint(
  folder: string,
  { step, tokens, weights, state, curve }: Snapshot,
  fingerprint: Fingerprint,
): Promise<string> {
  const path = checkpointPath(folder);
  await removeAbandoned(path);
  const heldOut = Float32Array.from(curve.heldOut.flatMap(({ step, loss }) => [step, loss]));
  await writeSafetensors(
    path,
    [
      ...tensors("weight", weights),
      ...tensors("state", state),
      tensor("curve/train", Float32Array.from(curve.train)),
      tensor("curve/held-out", heldOut),
    ],
    {
      "millrace.training": VERSION,
      step: String(step),
      tokens: String(tokens),
      fingerprint: JSON.stringify(fingerprint),
    },
  );
  return path;
}

/**
 * The folder's checkpoint, or null where there is none. Throws BAD_FORMAT where the file is damaged or is no training
 * checkpoint, and INVALID_ARGUMENT where its run was asked for other things than `fingerprint`, naming each.
 */
export async function loadCheckpoint(folder: string, fingerprint: Fingerprint): Promise<Snapshot | null> {
  const path = checkpointPath(folder);
  const file = await openFile(path).catch((error: unknown) => {
    if (isAbsent(error)) return null;
    throw error;
  });
  if (!file) return null;
  try {
    const header = await readHeader(file);
    const { step, tokens } = checkNotes(path, header, fingerprint);
    const read = async (name: string): Promise<Float32Array> => {
      const located = header.tensors.get(name);
      if (located?.type !== "F32") throw damaged(path, `no F32 tensor "${name}"`);
      const values = new Float32Array(located.byteLength / 4);
      await readFully(file, located.position, new Uint8Array(values.buffer));
      return values;
    };
    const group = async (prefix: string): Promise<Map<string, Float32Array>> => {
      const found = new Map<string, Float32Array>();
      for (const name of header.tensors.keys()) {
        if (name.startsWith(`${prefix}/`)) found.set(name.slice(prefix.length + 1), await read(name));
      }
      return found;
    };
    const flat = await read("curve/held-out");
    const heldOut = Array.from({ length: flat.length / 2 }, (_, i) => ({
      step: flat[2 * i]!,
      loss: flat[2 * i + 1]!,
    }));
    const train = Array.from(await read("curve/train"));
    return {
      step,
      tokens,
      weights: await group("weight"),
      state: await group("state"),
      curve: { train, heldOut },
    };
  } finally {
    await file.handle.close();
  }
}

function checkNotes(
  path: string,
  { notes }: SafetensorsHeader,
  fingerprint: Fingerprint,
): { step: number; tokens: number } {
  if (notes["millrace.training"] !== VERSION) {
    throw damaged(
      path,
      `"millrace.training" is ${JSON.stringify(notes["millrace.training"])}; expected "${VERSION}"`,
    );
  }
  const saved = parseJson(notes.fingerprint ?? "", `${path} (fingerprint)`);
  if (!isRecord(saved)) throw damaged(path, "no fingerprint");
  const names = new Set([...Object.keys(saved), ...Object.keys(fingerprint)]);
  const differing = [...names].filter((name) => saved[name] !== fingerprint[name]);
  if (differing.length > 0) {
    const list = differing.map(
      (name) => `${name}: ${show(saved[name])} there, ${show(fingerprint[name])} now`,
    );
    throw new MillraceError(
      differing.includes("shape") ? "BAD_SHAPE" : "INVALID_ARGUMENT",
      `${path} belongs to another run (${list.join("; ")}). Ask for the same, or name another folder.`,
      { path, differing },
    );
  }
  const [step, tokens] = [Number(notes.step), Number(notes.tokens)];
  if (!Number.isSafeInteger(step) || step < 0 || !Number.isSafeInteger(tokens)) {
    throw damaged(path, `step ${notes.step}, tokens ${notes.tokens}`);
  }
  return { step, tokens };
}

const show = (value: unknown): string => (value === undefined ? "absent" : JSON.stringify(value));

function damaged(path: string, what: string): MillraceError {
  return new MillraceError(
    "BAD_FORMAT",
    `${path} is no training checkpoint of this version: ${what}. Name another folder to start anew.`,
    { path },
  );
}

function isAbsent(error: unknown): boolean {
  const cause =
    error instanceof MillraceError ? (error.cause as NodeJS.ErrnoException | undefined) : undefined;
  return cause?.code === "ENOENT";
}

function tensors(prefix: string, arrays: ReadonlyMap<string, Float32Array>): SafetensorsTensor[] {
  return Array.from(arrays, ([name, values]) => tensor(`${prefix}/${name}`, values));
}

function tensor(name: string, values: Float32Array): SafetensorsTensor {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return { name, type: "F32", shape: [values.length], data: () => bytes };
}
