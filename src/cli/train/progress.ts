/** What a person sees of a training run, on standard error: a bar on a terminal, else a line now and then. */
import { type Bar, Presets, SingleBar } from "cli-progress";
import type { TrainStart } from "../../train/train.js";
import type { StepEvent, TrainEvent } from "../../train/trainer.js";
import { say } from "../terminal.js";

export interface TrainingProgress extends Disposable {
  tell(event: TrainEvent | TrainStart): void;
}

/** Milliseconds between lines where there is no terminal. */
const LINE_MS = 10_000;

export function trainingProgress(): TrainingProgress {
  return process.stderr.isTTY ? bar() : lines();
}

function bar(): TrainingProgress {
  const bar = new SingleBar(
    {
      format: "{bar} {value}/{total}  loss {loss}{heldOut}  {speed} tokens/s  {left} left",
      barsize: 24,
      hideCursor: true,
      clearOnComplete: false,
      stream: process.stderr,
    },
    Presets.shades_classic,
  ) as Bar & SingleBar;
  const showCursor = () => process.stderr.write("\u001b[?25h");
  let started = false;
  let heldOut = "";
  return {
    tell(event) {
      if (event.kind === "start") announce(event);
      if (event.kind === "resumed") say(`millrace: goes on after step ${event.step}`);
      if (event.kind === "evaluated") heldOut = `  held out ${event.loss.toFixed(3)}`;
      if (event.kind !== "step") return;
      const shown = {
        loss: event.loss.toFixed(3),
        heldOut,
        speed: Math.round(event.tokensPerSecond).toLocaleString("en-US"),
        left: duration(event.secondsLeft),
      };
      if (started) bar.update(event.step, shown);
      else {
        started = true;
        process.once("exit", showCursor);
        bar.start(event.steps, event.step, shown);
      }
    },
    [Symbol.dispose]() {
      if (started) bar.stop();
      started = false;
      process.off("exit", showCursor);
    },
  };
}

function lines(): TrainingProgress {
  let toldAt = Number.NEGATIVE_INFINITY;
  let heldOut = "";
  return {
    tell(event) {
      if (event.kind === "start") announce(event);
      if (event.kind === "resumed") say(`millrace: goes on after step ${event.step}`);
      if (event.kind === "evaluated") heldOut = `, held out ${event.loss.toFixed(4)}`;
      if (event.kind !== "step") return;
      const now = performance.now();
      if (event.step < event.steps && now - toldAt < LINE_MS) return;
      toldAt = now;
      say(stepLine(event, heldOut));
    },
    [Symbol.dispose]() {},
  };
}

function announce({ backend, reason, model, parameters, steps }: TrainStart): void {
  if (reason !== null) say(`millrace: ${reason}`);
  say(`${model}; ${parameters.toLocaleString("en-US")} parameters, ${steps.toLocaleString("en-US")} steps`);
  say(backend);
}

function stepLine(event: StepEvent, heldOut: string): string {
  const { step, steps, loss, rate, gradientNorm, tokensPerSecond, secondsLeft } = event;
  return (
    `step ${step}/${steps}: loss ${loss.toFixed(4)}${heldOut}, rate ${rate.toExponential(2)}, ` +
    `gradient ${gradientNorm.toPrecision(3)}, ${Math.round(tokensPerSecond).toLocaleString("en-US")} tokens/s, ` +
    `${duration(secondsLeft)} left`
  );
}

/** "41 s", "3 min 05 s", "2 h 07 min". */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const two = (value: number) => String(value).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}
