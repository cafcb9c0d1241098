import { createBackend } from "../../backends/resolve.js";
import type { HeadScores } from "../../cache/policies/split.js";
import { measureStoredHeads } from "../../engine/heads.js";
import { resolveModelPath } from "../../formats/hub.js";
import { openCheckpoint } from "../../formats/open.js";
import type { ModelOptions } from "../options.js";
import { bold, printable, table, write, writeJson } from "../terminal.js";

export type RazorFlags = Pick<ModelOptions, "backend" | "threads"> & { readonly json?: boolean };

/** Heads that are listed. */
const LISTED = 12;

/** Measures how much each head of a model looks back, and says which do most. */
export async function measureRazor(
  source: string,
  { backend: name, threads, json }: RazorFlags,
): Promise<void> {
  await using checkpoint = await openCheckpoint(await resolveModelPath(source));
  const { backend } = await createBackend(name, threads === undefined ? {} : { threads });
  try {
    const { scores, path } = await measureStoredHeads(checkpoint, backend);
    if (json) await writeJson({ path, ...scores });
    else await write(print(scores, path));
  } finally {
    await backend.dispose();
  }
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
