/** The losses of a run as a picture. */
import { plot, type Series } from "../plot/plot.js";
import type { Curve } from "./checkpoints.js";

/**
 * An SVG file: steps to the right, loss in nats per token upwards; every step's batch faintly, their running mean, and
 * the held-out windows with a mark where they were measured. A curve without steps has axes only.
 */
export function lossCurve({ train, heldOut }: Curve, title = "Training loss"): string {
  const smooth = runningMean(train);
  const byStep = (losses: readonly number[]) => losses.map((loss, i) => [i + 1, loss] as const);
  const series: Series[] = [
    { name: "batches", group: "train", style: "faint", points: byStep(train) },
    { name: `train${ending(smooth.at(-1))}`, group: "train", points: byStep(smooth) },
  ];
  if (heldOut.length > 0) {
    const points = heldOut.map(({ step, loss }) => [step, loss] as const);
    series.push({ name: `held out${ending(heldOut.at(-1)?.loss)}`, style: "marks", points });
  }
  const x = { label: "step", from: 0, to: Math.max(1, train.length) };
  return plot({ title, x, y: { label: "nats per token" }, series });
}

/** Mean of about the last twentieth of the steps so far, at most 100. */
function runningMean(losses: readonly number[]): number[] {
  let mean = 0;
  return losses.map((loss, i) => {
    const share = 1 / Math.min(i + 1, Math.max(1, Math.min(100, losses.length / 20)));
    mean += (loss - mean) * share;
    return mean;
  });
}

const ending = (loss: number | undefined): string => (loss === undefined ? "" : ` (${loss.toFixed(3)})`);
