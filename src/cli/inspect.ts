/** `millrace inspect`: what a model file holds and what it would take, from its header alone. */
import { freemem } from "node:os";
import { Command, Option } from "commander";
import type { Backend } from "../backends/contract.js";
import { createBackend } from "../backends/resolve.js";
import { GROUP } from "../cache/codecs/contract.js";
import { codecs } from "../cache/codecs/index.js";
import { formatBytes } from "../engine/bytes.js";
import { planModel } from "../engine/load.js";
import { openParameters } from "../engine/model.js";
import type { OpenParameters } from "../engine/protocol.js";
import { ERRORS, type ErrorDetails, MillraceError } from "../errors.js";
import type { Checkpoint, MetadataValue, TensorInfo } from "../formats/checkpoint.js";
import { resolveModelPath } from "../formats/hub.js";
import { openCheckpoint } from "../formats/open.js";
import type { ModelConfig } from "../models/contract.js";
import { buildTape } from "../models/resolve.js";
import type { Tape } from "../tape/tape.js";
import { chatFormat } from "../tokenizer/chat.js";
import type { Tokenizer } from "../tokenizer/contract.js";
import { resolveTokenizer } from "../tokenizer/resolve.js";
import { onInterrupt } from "./interrupt.js";
import {
  addModelOptions,
  count,
  jsonOption,
  type ModelOptions,
  modelArgument,
  modelSource,
  openOptions,
} from "./options.js";
import { phaseBars } from "./progress.js";
import { bold, oneLine, plural, table, write, writeJson } from "./terminal.js";

interface InspectOptions extends ModelOptions {
  readonly sequences: number;
  readonly tensors?: boolean;
  readonly template?: boolean;
  readonly json?: boolean;
}

const EXAMPLES = `
Examples:
  millrace inspect model.gguf
  millrace inspect model.gguf --context 32768 --codec int8 --memory 8GiB
  millrace inspect model.gguf --json --tensors | jq '.tensors[].name'

Exit codes: 0 it can run here, 4 it cannot be run at all, 6 no backend,
7 it does not fit; the report is printed all the same.`;

export function inspectCommand(): Command {
  const command = new Command("inspect")
    .summary("show what a model file holds, and whether it fits")
    .description(
      "Shows metadata, architecture, tensors and tokenizer of a model file, the memory that it needs, and whether it " +
        "fits into what is free, or into --memory. No weights are read.",
    )
    .addArgument(modelArgument())
    .optionsGroup("Report:")
    .addOption(new Option("--tensors", "list every tensor instead of a sum by type"))
    .addOption(new Option("--template", "print the chat template in full"))
    .addOption(jsonOption());
  addModelOptions(command)
    .addOption(new Option("--sequences <n>", "requests that run at once").argParser(count).default(1))
    .addHelpText("after", EXAMPLES);
  return command.action(async (named: string | undefined, options: InspectOptions) => {
    await inspect(modelSource(named, "inspect"), options);
  });
}

async function inspect(source: string, options: InspectOptions): Promise<void> {
  const parameters = openParameters(source, { ...openOptions(options), sequences: options.sequences });
  await using checkpoint = await openCheckpoint(await fetched(source));
  const report = await examine(checkpoint, parameters, options);
  if (options.json) await writeJson(report);
  else await write(`${print(report, options)}\n`);
  const [problem] = report.problems;
  if (problem) process.exitCode = ERRORS[problem.code].exit;
}

async function fetched(source: string): Promise<string> {
  const abort = new AbortController();
  using _interrupt = onInterrupt(() => abort.abort());
  using bars = phaseBars(source);
  return await resolveModelPath(source, {
    signal: abort.signal,
    onProgress: ({ received, total }) => {
      bars.update({ phase: "download", loadedBytes: received, totalBytes: total });
    },
  });
}

type Problem = ReturnType<MillraceError["toJSON"]>;
type Report = Awaited<ReturnType<typeof examine>>;

async function examine(checkpoint: Checkpoint, parameters: OpenParameters, options: InspectOptions) {
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
    tokenizer: tokenizer && tokenizerFacts(tokenizer, checkpoint, options.template === true),
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

/** What it takes and what there is; `refusal` says why it does not fit. */
async function needs(checkpoint: Checkpoint, tape: Tape, parameters: OpenParameters) {
  const { threads } = parameters;
  const { backend } = await createBackend(parameters.backend, threads === undefined ? {} : { threads });
  try {
    const plan = await planned(checkpoint, backend, parameters);
    const { weightBytes, cacheBytes, scratchBytes, context } = plan;
    const neededBytes = weightBytes + cacheBytes + scratchBytes;
    const free = freeBytes();
    const availableBytes = parameters.memoryBytes ?? free;
    const fits = plan.refusal === null && neededBytes <= availableBytes;
    const facts = {
      fits,
      neededBytes,
      availableBytes,
      budgetBytes: parameters.memoryBytes ?? null,
      freeBytes: free,
      weightBytes,
      cacheBytes,
      cacheBytesPerToken: cacheBytesPerToken(tape, parameters),
      scratchBytes,
      context,
      sequences: parameters.sequences,
      cache: { policy: parameters.cache.policy, codec: parameters.cache.codec },
      backend: backend.description,
    };
    return { facts, refusal: fits ? null : (plan.refusal ?? shortOf(neededBytes, free)) };
  } finally {
    await backend.dispose();
  }
}

interface Needs {
  readonly weightBytes: number;
  readonly cacheBytes: number;
  readonly scratchBytes: number;
  /** Tokens of one request; null: endless. */
  readonly context: number | null;
  readonly refusal: Problem | null;
}

/** The engine's own plan, or the numbers with which it refuses. */
async function planned(checkpoint: Checkpoint, backend: Backend, parameters: OpenParameters): Promise<Needs> {
  try {
    const { weightBytes, fit, endless, context } = await planModel(checkpoint, backend, parameters);
    const { cacheBytes, scratchBytes } = fit;
    return { weightBytes, cacheBytes, scratchBytes, context: endless ? null : context, refusal: null };
  } catch (error) {
    if (!(error instanceof MillraceError) || error.code !== "OUT_OF_BUDGET") throw error;
    const number = (name: keyof ErrorDetails) => Number(error.details[name] ?? 0);
    const context = number("context");
    return {
      weightBytes: number("weightBytes"),
      cacheBytes: number("cacheBytes"),
      scratchBytes: number("scratchBytes"),
      context: Number.isFinite(context) ? context : null,
      refusal: error.toJSON(),
    };
  }
}

function shortOf(needs: number, has: number): Problem {
  const message =
    `Needs ${formatBytes(needs)}; ${formatBytes(has)} are free at this moment. Close other programs, or choose a ` +
    "smaller model or codec, or a shorter context.";
  return new MillraceError("OUT_OF_BUDGET", message, { needs, has }).toJSON();
}

/** Memory that can be had at this moment, within the container's limit where there is one. */
function freeBytes(): number {
  const constrained = process.constrainedMemory() ?? 0;
  return constrained > 0 ? Math.min(freemem(), constrained) : freemem();
}

function cacheBytesPerToken(tape: Tape, { cache }: OpenParameters): number {
  const codec = codecs[cache.codec];
  return tape.kv.reduce(
    (sum, { numKvHeads, headWidth }) => sum + (numKvHeads * codec.groupBytes(headWidth)) / GROUP,
    0,
  );
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

function print(report: Report, options: InspectOptions): string {
  const sections = [header(report), section("Metadata", metadataRows(report))];
  if (report.config) sections.push(section("Architecture", configRows(report.config)));
  sections.push(tensorSection(report), tokenizerSection(report));
  if (report.memory) sections.push(memorySection(report.memory));
  if (options.template && report.tokenizer?.chatTemplate) {
    sections.push(`${bold("Chat template")}\n${report.tokenizer.chatTemplate}`);
  }
  for (const { code, message } of report.problems) sections.push(`${bold(code)}: ${message}`);
  return sections.join("\n\n");
}

function header({ path, name, architecture, format, parameters, fileBytes }: Report): string {
  const facts = [architecture, `${short(parameters)} parameters`, `${formatBytes(fileBytes)} ${format}`];
  return `${bold(oneLine(path))}\n  ${name === null || name === architecture ? "" : `${oneLine(name)}: `}${oneLine(facts.join(", "))}`;
}

const section = (title: string, rows: readonly (readonly [string, string])[]): string =>
  `${bold(title)}\n${table(rows, ["left", "left"])}`;

const CELL = 100;

const cell = (text: string): string => (text.length > CELL ? `${text.slice(0, CELL - 1)}…` : text);

function metadataRows({ metadata }: Report): [string, string][] {
  return Object.entries(metadata).map(([key, value]) => [oneLine(key), shown(value)]);
}

/** A shortened value for people. */
function shown(value: unknown): string {
  if (typeof value === "string") return cell(oneLine(value));
  if (typeof value === "object" && value !== null && "first" in value && "length" in value) {
    const { length, first } = value as { length: number; first: readonly unknown[] };
    return cell(
      oneLine(`${Number(length).toLocaleString("en-US")} values: ${first.map(item).join(", ")}, …`),
    );
  }
  if (Array.isArray(value)) return cell(oneLine(`[${value.map(item).join(", ")}]`));
  if (typeof value === "object" && value !== null) {
    return cell(
      oneLine(
        Object.entries(value)
          .map(([key, inner]) => `${key} ${item(inner)}`)
          .join(", "),
      ),
    );
  }
  return item(value);
}

/** Numbers are told as a file's single precision knows them. */
function item(value: unknown): string {
  const rounded = (_: string, inner: unknown) =>
    typeof inner === "number" && !Number.isInteger(inner) ? Number(inner.toPrecision(7)) : inner;
  return typeof value === "bigint" ? String(value) : (JSON.stringify(value, rounded) ?? "");
}

const TOLD_ELSEWHERE = ["architecture", "vocabularySize", "prefix"];

function configRows(config: Record<string, unknown>): [string, string][] {
  return Object.entries(config)
    .filter(([name, value]) => !TOLD_ELSEWHERE.includes(name) && value !== null && value !== undefined)
    .map(([name, value]) => [words(name), shown(value)]);
}

/** "numKvHeads" -> "num kv heads". */
const words = (name: string): string => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);

function tensorSection({ tensors, tensorTypes }: Report): string {
  const total = tensorTypes.reduce((sum, { tensors }) => sum + tensors, 0);
  if (tensors) {
    const rows = tensors.map(({ name, type, shape, bytes }) => [
      oneLine(name),
      type,
      shape.join(" x "),
      formatBytes(bytes),
    ]);
    return `${bold(`Tensors (${total})`)}\n${table(rows, ["left", "left", "right", "right"])}`;
  }
  const rows = tensorTypes.map(({ type, tensors, parameters, bytes }) => [
    type,
    plural(tensors, "tensor"),
    `${short(parameters)} parameters`,
    formatBytes(bytes),
  ]);
  return `${bold(`Tensors (${total}; --tensors lists them)`)}\n${table(rows, ["left", "right", "right", "right"])}`;
}

const FORMATS = {
  model: "in the file",
  chatml: "none in the file; ChatML is used, whose tokens it has",
  plain: 'none in the file; plain "User:" and "Assistant:" lines are used',
};

function tokenizerSection({ tokenizer }: Report): string {
  if (!tokenizer) return `${bold("Tokenizer")}\n  none: only token ids can be used`;
  const { kind, model, preTokenizer, vocabularySize, bosId, eosId, eosIds, addsBos, addsEos } = tokenizer;
  const id = (value: number | null, added: boolean) =>
    value === null ? "none" : `${value}${added ? ", added" : ""}`;
  return section("Tokenizer", [
    [
      "kind",
      oneLine([model ?? kind, preTokenizer && `pre-tokeniser ${preTokenizer}`].filter(Boolean).join(", ")),
    ],
    ["vocabulary", vocabularySize.toLocaleString("en-US")],
    ["begin of sequence", id(bosId, addsBos)],
    ["end of sequence", id(eosId, addsEos)],
    ["tokens that end an answer", eosIds.join(", ") || "none"],
    ["chat template", FORMATS[tokenizer.chatFormat]],
  ]);
}

function memorySection(memory: NonNullable<Report["memory"]>): string {
  const { context, sequences, cache, budgetBytes, fits } = memory;
  const policy =
    cache.policy.policy === "window" ? `window of ${plural(cache.policy.tokens, "token")}` : "full";
  const streams = sequences > 1 ? `${sequences} x ` : "";
  const holds = `${streams}${context === null ? "endless streams" : plural(context, "token")}`;
  const rows = [
    ["weights", formatBytes(memory.weightBytes), memory.backend],
    [
      "cache",
      formatBytes(memory.cacheBytes),
      `${holds}, ${policy}, ${cache.codec}: ${formatBytes(memory.cacheBytesPerToken)} a token`,
    ],
    ["scratch", formatBytes(memory.scratchBytes), ""],
    ["together", formatBytes(memory.neededBytes), ""],
    [budgetBytes === null ? "free" : "budget", formatBytes(memory.availableBytes), ""],
  ];
  return `${bold("Memory")}\n${table(rows, ["left", "right", "left"])}\n  ${bold(fits ? "It fits." : "It does not fit.")}`;
}

function short(parameters: number): string {
  for (const [unit, size] of [
    ["B", 1e9],
    ["M", 1e6],
    ["K", 1e3],
  ] as const) {
    if (parameters >= size) return `${(parameters / size).toPrecision(3)} ${unit}`;
  }
  return String(parameters);
}
