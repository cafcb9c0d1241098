/** Options that the commands of evaluation share, and what becomes of their results. */
import { type Command, InvalidArgumentError, Option } from "commander";
import type { CodecName } from "../../cache/codecs/contract.js";
import type { ModelHeads } from "../../cache/policies/split.js";
import { readHeads } from "../../engine/heads-file.js";
import type { OpenOptions } from "../../engine/open.js";
import { type NamedPolicy, policiesOfSize, type Sizing } from "../../evaluate/budgets.js";
import { resolveModelPath } from "../../formats/hub.js";
import { openCheckpoint } from "../../formats/open.js";
import { buildTape } from "../../models/resolve.js";
import type { RecallOptions } from "../../session/recall.js";
import { another, backendOption, count, type ModelOptions, threadsOption } from "../options.js";
import { addResultOptions, type ResultOptions } from "../results.js";

export interface EvaluationOptions
  extends Pick<ModelOptions, "backend" | "threads" | "context" | "memory">,
    ResultOptions {
  readonly codec: CodecName;
}

/** Adds the options of opening a model for sessions, and of writing what was found. */
export function addEvaluationOptions(command: Command): Command {
  command
    .optionsGroup("Machine and memory:")
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(
      new Option(
        "--context <tokens>",
        "most tokens of a cache that keeps all (default: the model's own)",
      ).argParser(count),
    )
    .addOption(
      new Option(
        "--memory <size>",
        'hard limit on each session, such as "32 MiB" (default: what its policy needs)',
      ),
    )
    .addOption(
      new Option("--codec <name>", "how keys and values are kept")
        .choices(["f32", "f16", "int8"])
        .default("f16"),
    );
  return addResultOptions(command);
}

/** Policies by list, several options or both; see `cachePolicies`. */
export const cacheOption = (): Option =>
  new Option(
    "--cache <policies>",
    "cache policies to compare, with commas between them: by name, cut to --budget, or as run takes them (repeatable)",
  ).argParser(another);

export const budgetOption = (): Option =>
  new Option(
    "--budget <tokens>",
    "tokens that policies given by name alone keep; several with commas (default: the model's context)",
  ).argParser(counts);

/** Whole numbers of at least 1, with commas between them. */
export const counts = (text: string): number[] => text.split(",").map(count);

/** Numbers above 0 and at most 1, with commas between them. */
export function shares(text: string): number[] {
  return text.split(",").map((part) => {
    const value = part.trim() === "" ? Number.NaN : Number(part);
    if (value > 0 && value <= 1) return value;
    throw new InvalidArgumentError("expected shares above 0 and at most 1, such as 0.2,0.5.");
  });
}

/** A share for people: "20 %". */
export const percentage = (share: number): string => `${Number((100 * share).toFixed(1))} %`;

/** What `recallOption` yields. */
export interface RecallFlag {
  readonly recall?: RecallOptions;
}

/** A disk tier: "1 GiB", or options by name. `purpose` ends with ": ". */
export const recallOption = (purpose: string): Option =>
  new Option("--recall <size>", `${purpose}"1 GiB", or disk=1GiB,by=both,tokens=512`).argParser(
    recallOptions,
  );

const RECALL_NUMBERS = ["tokens", "block", "vectors", "following"];

function recallOptions(text: string): RecallOptions {
  if (!text.includes("=")) return { disk: text };
  const pairs = text.split(",").map((pair) => {
    const [, name, value] = /^\s*([a-z]+)=(.+)$/.exec(pair) ?? [];
    if (name === undefined || value === undefined) {
      throw new InvalidArgumentError("expected a size, or options such as disk=1GiB,by=both,tokens=512.");
    }
    return [name, RECALL_NUMBERS.includes(name) ? Number(value) : value] as const;
  });
  return Object.fromEntries(pairs) as unknown as RecallOptions;
}

export interface CacheNaming {
  /** How several budgets are told apart in names. Default: by their tokens. */
  readonly label?: (budget: number) => string;
  /** Told of policies that cannot be cut to a budget; without it they throw. */
  readonly tellUnfit?: (reason: Error) => void;
}

/** What `cacheOption` yielded, or `otherwise`. Throws INVALID_ARGUMENT. */
export function cachePolicies(
  lists: readonly string[] | undefined,
  otherwise: string,
  budgets: readonly number[],
  sizing: Sizing,
  { label = String, tellUnfit }: CacheNaming = {},
): NamedPolicy[] {
  const policies = (lists ?? [otherwise]).flatMap((list) => policiesOfSize(list, budgets, sizing, tellUnfit));
  return policies.map((each) =>
    each.budget !== null && budgets.length > 1
      ? { ...each, name: `${each.name} ${label(each.budget)}` }
      : each,
  );
}

/** Which heads of the model retrieve, where that was ever found out. */
export async function headsOf(source: string): Promise<ModelHeads> {
  await using checkpoint = await openCheckpoint(await resolveModelPath(source));
  const { tape } = await buildTape(checkpoint);
  return await readHeads(checkpoint, tape);
}

/** The API's words for them. */
export function evaluationModel({ backend, threads, context }: EvaluationOptions): OpenOptions {
  return {
    backend,
    ...(threads === undefined ? {} : { threads }),
    ...(context === undefined ? {} : { context }),
  };
}
