/** `millrace inspect` for people. */
import { formatPolicy } from "../../cache/policies/resolve.js";
import { formatBytes } from "../../engine/bytes.js";
import { bold, cut, oneLine, plural, printable, table } from "../terminal.js";
import type { Report } from "./report.js";

/** The report as text. */
export function print(report: Report): string {
  const sections = [header(report), section("Metadata", metadataRows(report))];
  if (report.config) sections.push(section("Architecture", configRows(report.config)));
  sections.push(tensorSection(report), tokenizerSection(report));
  if (report.memory) sections.push(memorySection(report.memory));
  if (report.tokenizer?.chatTemplate) {
    sections.push(`${bold("Chat template")}\n${printable(report.tokenizer.chatTemplate)}`);
  }
  for (const { code, message } of report.problems) sections.push(`${bold(code)}: ${printable(message)}`);
  return sections.join("\n\n");
}

function header({ path, name, architecture, format, parameters, fileBytes }: Report): string {
  const facts = [architecture, `${short(parameters)} parameters`, `${formatBytes(fileBytes)} ${format}`];
  return `${bold(oneLine(path))}\n  ${name === null || name === architecture ? "" : `${oneLine(name)}: `}${oneLine(facts.join(", "))}`;
}

const section = (title: string, rows: readonly (readonly [string, string])[]): string =>
  `${bold(title)}\n${cut(table(rows, ["left", "left"]))}`;

const CELL = 100;

function cell(text: string): string {
  const line = oneLine(text);
  return line.length > CELL ? `${line.slice(0, CELL - 1)}…` : line;
}

function metadataRows({ metadata }: Report): [string, string][] {
  return Object.entries(metadata).map(([key, value]) => [oneLine(key), shown(value)]);
}

/** A shortened value for people. */
function shown(value: unknown): string {
  if (typeof value === "string") return cell(value);
  if (isShortened(value)) {
    const { length, first } = value;
    return cell(`${length.toLocaleString("en-US")} values: ${first.map(item).join(", ")}, …`);
  }
  if (Array.isArray(value)) return cell(`[${value.map(item).join(", ")}]`);
  if (typeof value === "object" && value !== null) {
    const part = (inner: unknown) => (isShortened(inner) ? `of ${inner.length} values` : item(inner));
    return cell(
      Object.entries(value)
        .map(([key, inner]) => `${key} ${part(inner)}`)
        .join(", "),
    );
  }
  return item(value);
}

function isShortened(value: unknown): value is { length: number; first: readonly unknown[] } {
  return typeof value === "object" && value !== null && "first" in value && "length" in value;
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
  chatml: "none; ChatML is used, whose tokens there are",
  plain: 'none; "User:" and "Assistant:" lines are used',
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
  const policy = formatPolicy(cache.policy);
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
