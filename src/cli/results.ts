/** What becomes of the results of commands that measure. */
import { type Command, Option } from "commander";
import { writeAtomically } from "../formats/file.js";
import { type Panel, plot } from "../plot/plot.js";
import { jsonOption } from "./options.js";
import { say, write, writeJson } from "./terminal.js";

export interface ResultOptions {
  readonly json?: boolean;
  readonly out?: string;
  readonly plot?: string;
}

/** Adds the options of writing what was found; `plots` where there is something to draw. */
export function addResultOptions(command: Command, plots = true): Command {
  command
    .optionsGroup("Results:")
    .addOption(jsonOption())
    .addOption(new Option("--out <file>", "write the figures as JSON there, too"));
  return plots ? command.addOption(new Option("--plot <file>", "draw an SVG file")) : command;
}

/** Writes the files that were asked for, and prints the figures as JSON or as text. */
export async function deliver(
  { json, out, plot: picture }: ResultOptions,
  figures: object,
  text: string,
  panels: readonly Panel[] = [],
): Promise<void> {
  const put = async (path: string, content: string) => {
    await writeAtomically(path, (file) => file.write(Buffer.from(content)));
    say(`millrace: wrote ${path}`);
  };
  if (out !== undefined) await put(out, `${JSON.stringify(figures, null, 2)}\n`);
  if (picture !== undefined) await put(picture, plot(...panels));
  if (json) await writeJson(figures);
  else await write(`${text}\n`);
}
