/** `millrace evaluate`: what a model makes of streams, and what it remembers of them. */
import { Command } from "commander";
import { answersCommand } from "./evaluate/answers.js";
import { perplexityCommand } from "./evaluate/perplexity.js";
import { recallCommand } from "./evaluate/recall.js";
import { recomputeCommand } from "./evaluate/recompute.js";
import { savingCommand } from "./evaluate/saving.js";
import { soakCommand } from "./evaluate/soak.js";
import { worldCommand } from "./evaluate/world.js";

export function evaluateCommand(): Command {
  return new Command("evaluate")
    .summary("measure what a model makes of streams, and what it remembers of them")
    .description("Measures what a model makes of streams, and what it remembers of them.")
    .addCommand(perplexityCommand())
    .addCommand(recallCommand())
    .addCommand(soakCommand())
    .addCommand(recomputeCommand())
    .addCommand(savingCommand())
    .addCommand(worldCommand())
    .addCommand(answersCommand());
}
