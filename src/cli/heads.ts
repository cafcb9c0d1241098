/** `millrace heads`: finds out which heads of a model retrieve, for the razor policy. */
import { Command } from "commander";
import { createBackend } from "../backends/resolve.js";
import type { HeadScores } from "../cache/policies/razor.js";
import { measureStoredHeads } from "../engine/heads.js";
import { resolveModelPath } from "../formats/hub.js";
import { openCheckpoint } from "../formats/open.js";
import {
  backendOption,
  jsonOption,
  type ModelOptions,
  modelArgument,
  modelSource,
  threadsOption,
} from "./options.js";
import { bold, printable, table, write, writeJson } from "./terminal.js";

type HeadsOptions = Pick<ModelOptions, "backend" | "threads"> & { readonly json?: boolean };

/** Heads that are listed. */
const LISTED = 12;

export function headsCommand(): Command {
  return new Command("heads")
    .summary("measure which heads of a model retrieve")
    .description(
      "Runs a random text four times over and measures how much each head attends to earlier copies of its token " +
        "(echo) and to what followed them (induction). The scores are kept beside the model, or in the cache folder, " +
        "where --cache razor finds them.",
    )
    .addArgument(modelArgument())
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(async (named: string | undefined, { backend: name, threads, json }: HeadsOptions) => {
      await using checkpoint = await openCheckpoint(await resolveModelPath(modelSource(named)));
      const { backend } = await createBackend(name, threads === undefined ? {} : { threads });
      try {
        const { scores, path } = await measureStoredHeads(checkpoint, backend);
        if (json) await writeJson({ path, ...scores });
        else await write(print(scores, path));
      } finally {
        await backend.dispose();
      }
    });
}

function print({ echo, induction }: HeadScores, path: string): string {
  const heads = echo.flatMap((row, layer) =>
    row.map((score, head) => ({ layer, head, echo: score, induction: induction[layer]![head]! })),
  );
  const strongest = heads
    .sort((a, b) => Math.max(b.echo, b.induction) - Math.max(a.echo, a.induction))
    .slice(0, LISTED);
  const rows = [
    ["layer", "kv head", "echo", "induction"],
    ...strongest.map((each) => [
      String(each.layer),
      String(each.head),
      each.echo.toFixed(3),
      each.induction.toFixed(3),
    ]),
  ];
  const listed = table(rows, ["right", "right", "right", "right"]);
  return `${bold("Heads that retrieve most")}\n${listed}\nAll ${heads.length} are in ${printable(path)}.\n`;
}
