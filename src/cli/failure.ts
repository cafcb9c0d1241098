/** What a command that failed says, and the code that it ends with. */
import { CommanderError } from "commander";
import { type ErrorDetails, MillraceError } from "../errors.js";
import { oneLine, printable, say } from "./terminal.js";

const USAGE = 2;

/**
 * Says what went wrong and sets the exit code. On standard error "millrace: CODE: message"; with `json` also an object
 * `{ error: { code, message, details } }` on standard output. Errors that are no MillraceError, and INTERNAL ones, are
 * ours: they come with a stack and a request to report them.
 */
export function report(error: unknown, json: boolean): void {
  if (error instanceof CommanderError) {
    usage(error, json);
    return;
  }
  const known = MillraceError.from(error);
  process.exitCode = known.exitCode;
  say(`millrace: ${known.code}: ${printable(known.message)}`);
  if (known.code === "INTERNAL") {
    const origin = known.cause instanceof Error ? known.cause : known;
    if (origin.stack) say(origin.stack);
    say("This is a bug in Millrace. Please report it, with the lines above and the command that you ran.");
  }
  if (json) writeError(known.toJSON());
}

/** Commander has said on standard error what it does not understand; help and version are no failures. */
function usage(error: CommanderError, json: boolean): void {
  if (error.exitCode === 0) return;
  process.exitCode = USAGE;
  const message = oneLine(error.message.replace(/^error: /, ""));
  if (json) writeError({ code: "INVALID_ARGUMENT", message, details: { usage: error.code } });
}

function writeError(error: { code: string; message: string; details: ErrorDetails }): void {
  process.stdout.write(`${JSON.stringify({ error })}\n`);
}
