/** What a model file holds, as plain values: the JSON of `millrace inspect`. */
import type { OpenParameters } from "../../engine/protocol.js";
import { MillraceError } from "../../errors.js";
import type { Checkpoint, MetadataValue, TensorInfo } from "../../formats/checkpoint.js";
import type { ModelConfig } from "../../models/contract.js";
import { buildTape } from "../../models/resolve.js";
import { chatFormat } from "../../tokenizer/chat.js";
import type { Tokenizer } from "../../tokenizer/contract.js";
import { resolveTokenizer } from "../../tokenizer/resolve.js";
import { needs, type Problem } from "./needs.js";

export type Report = Awaited<ReturnType<typeof examine>>;

/** Looks at everything; what stands in the way of running the model is in `problems`. */
export async function examine(
  checkpoint: Checkpoint,
  parameters: OpenParameters,
  options: { readonly tensors: boolean; readonly template: boolean },
) {
  const problems: Problem[] = [];
  const attempt = async <T>(work: () => T | Promise<T>): Promise<T | null> => {
    try {
      return await work();
    } catch (error) {
      const known = MillraceError.from(error);
      if (known.code === "INTERNAL") throw error;
      problems.push(known.toJSON());
      return null;
    }
  };
  const { context } = parameters;
  const model = await attempt(() => buildTape(checkpoint, context === undefined ? {} : { context }));
  const tokenizer = await attempt(() => resolveTokenizer(checkpoint.tokenizer));
  const memory = model && (await attempt(() => needs(checkpoint, model.tape, parameters)));
  if (memory?.refusal) problems.push(memory.refusal);
  const tensors = [...checkpoint.tensors.values()];
  return {
    path: checkpoint.path,
    format: checkpoint.format,
    fileBytes: checkpoint.fileBytes,
    architecture: checkpoint.architecture,
    name: nameOf(checkpoint),
    parameters: tensors.reduce((sum, tensor) => sum + elements(tensor), 0),
    config: model && plainConfig(model.config),
    tokenizer: tokenizer && tokenizerFacts(tokenizer, checkpoint, options.template),
    tensorTypes: byType(tensors),
    ...(options.tensors
      ? {
          tensors: tensors.map(({ name, type, shape, byteLength }) => ({
            name,
            type,
            shape,
            bytes: byteLength,
          })),
        }
      : {}),
    metadata: Object.fromEntries([...checkpoint.metadata].map(([key, value]) => [key, shortened(value)])),
    memory: memory?.facts ?? null,
    problems,
  };
}

function nameOf({ metadata }: Checkpoint): string | null {
  const name = metadata.get("general.name") ?? metadata.get("_name_or_path");
  return typeof name === "string" && name !== "" ? name : null;
}

const elements = ({ shape }: TensorInfo): number => shape.reduce((product, size) => product * size, 1);

/** Sizes and switches; tables such as rotary factors are told by their length. */
function plainConfig(config: ModelConfig): Record<string, unknown> {
  const plain = (value: unknown): unknown => {
    if (ArrayBuffer.isView(value) || Array.isArray(value)) {
      const list = Array.from(value as ArrayLike<unknown>);
      return list.length > SHORT ? { length: list.length, first: list.slice(0, SHORT) } : list.map(plain);
    }
    if (typeof value === "object" && value !== null) {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
    }
    return typeof value === "function" ? undefined : value;
  };
  return plain(config) as Record<string, unknown>;
}

function tokenizerFacts(tokenizer: Tokenizer, { tokenizer: source, metadata }: Checkpoint, whole: boolean) {
  const { vocabularySize, bosId, eosId, eosIds, addsBos, addsEos, chatTemplate } = tokenizer;
  const text = (key: string) => {
    const value = metadata.get(key);
    return typeof value === "string" ? value : null;
  };
  return {
    kind: source.kind,
    model: text("tokenizer.ggml.model"),
    preTokenizer: text("tokenizer.ggml.pre"),
    vocabularySize,
    bosId,
    eosId,
    eosIds: [...eosIds],
    addsBos,
    addsEos,
    chatFormat: chatFormat(tokenizer).kind,
    chatTemplateLength: chatTemplate?.length ?? null,
    ...(whole ? { chatTemplate } : {}),
  };
}

function byType(tensors: readonly TensorInfo[]) {
  const sums = new Map<string, { type: string; tensors: number; parameters: number; bytes: number }>();
  for (const tensor of tensors) {
    const sum = sums.get(tensor.type) ?? { type: tensor.type, tensors: 0, parameters: 0, bytes: 0 };
    sum.tensors += 1;
    sum.parameters += elements(tensor);
    sum.bytes += tensor.byteLength;
    sums.set(tensor.type, sum);
  }
  return [...sums.values()].toSorted((a, b) => b.bytes - a.bytes);
}

const SHORT = 8;
const LONG_TEXT = 2000;

/** JSON of a metadata value: long lists by their length and first elements, long texts cut. */
function shortened(value: MetadataValue): unknown {
  if (Array.isArray(value)) {
    const list = value as readonly MetadataValue[];
    if (list.length <= SHORT) return list.map(shortened);
    return { length: list.length, first: list.slice(0, SHORT).map(shortened) };
  }
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (typeof value === "number" && !Number.isFinite(value)) return String(value);
  if (typeof value === "string" && value.length > LONG_TEXT) return `${value.slice(0, LONG_TEXT)}…`;
  return value;
}
