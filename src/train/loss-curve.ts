/** The losses of a run as a picture. */
import type { Curve } from "./checkpoints.js";

const WIDTH = 800;
const HEIGHT = 450;
const PLOT = { left: 64, right: WIDTH - 20, top: 44, bottom: HEIGHT - 48 } as const;
/** Points of a line at most: more than the picture has columns show nothing. */
const MAX_POINTS = 1000;

/** Colours that are told apart by people who see few, on light and on dark. */
const COLOURS = { train: "#3b7dd8", heldOut: "#d8743b", text: "#6b7280", grid: "#9ca3af" } as const;

/**
 * An SVG file: steps to the right, loss in nats per token upwards; every step's batch faintly, their running mean, and
 * the held-out windows with a mark where they were measured. A curve without steps has axes only.
 */
export function lossCurve({ train, heldOut }: Curve, title = "Training loss"): string {
  const steps = Math.max(1, train.length);
  const smooth = runningMean(train);
  const shown = [...smooth, ...heldOut.map(({ loss }) => loss)].filter(Number.isFinite);
  const y = axis(Math.min(...shown, Infinity), Math.max(...shown, -Infinity));
  const x = axis(0, steps);
  const atX = (step: number) => scale(step, x.low, x.high, PLOT.left, PLOT.right);
  const atY = (loss: number) => {
    const inside = Math.min(y.high, Math.max(y.low, loss));
    return scale(inside, y.low, y.high, PLOT.bottom, PLOT.top);
  };
  const line = (losses: readonly number[]) =>
    thinned(losses).map(([i, loss]) => [atX(i + 1), atY(loss)] as const);
  const measured = heldOut.map(({ step, loss }) => [atX(step), atY(loss)] as const);
  const { text, grid } = COLOURS;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}" viewBox="0 0 ${WIDTH} ${HEIGHT}" ` +
      'font-family="system-ui, sans-serif" font-size="12">',
    `<title>${escapeMarkup(title)}</title>`,
    `<text x="${PLOT.left}" y="24" font-size="15" fill="${text}">${escapeMarkup(title)}</text>`,
    ...y.ticks.map(
      (tick) =>
        `<line x1="${PLOT.left}" x2="${PLOT.right}" y1="${round(atY(tick))}" y2="${round(atY(tick))}" stroke="${grid}" stroke-opacity="0.35"/>` +
        `<text x="${PLOT.left - 8}" y="${round(atY(tick) + 4)}" text-anchor="end" fill="${text}">${label(tick, y.step)}</text>`,
    ),
    ...x.ticks.map(
      (tick) =>
        `<line x1="${round(atX(tick))}" x2="${round(atX(tick))}" y1="${PLOT.bottom}" y2="${PLOT.bottom + 5}" stroke="${grid}"/>` +
        `<text x="${round(atX(tick))}" y="${PLOT.bottom + 19}" text-anchor="middle" fill="${text}">${label(tick, x.step)}</text>`,
    ),
    `<line x1="${PLOT.left}" x2="${PLOT.right}" y1="${PLOT.bottom}" y2="${PLOT.bottom}" stroke="${grid}"/>`,
    `<text x="${(PLOT.left + PLOT.right) / 2}" y="${HEIGHT - 10}" text-anchor="middle" fill="${text}">step</text>`,
    `<text x="16" y="${(PLOT.top + PLOT.bottom) / 2}" text-anchor="middle" fill="${text}" ` +
      `transform="rotate(-90 16 ${(PLOT.top + PLOT.bottom) / 2})">nats per token</text>`,
    polyline(line(train), COLOURS.train, 'stroke-width="1" stroke-opacity="0.3"'),
    polyline(line(smooth), COLOURS.train, 'stroke-width="2"'),
    polyline(measured, COLOURS.heldOut, 'stroke-width="2"'),
    ...measured.map(
      ([cx, cy]) => `<circle cx="${round(cx)}" cy="${round(cy)}" r="2.5" fill="${COLOURS.heldOut}"/>`,
    ),
    ...legend([
      [COLOURS.train, `train${ending(smooth.at(-1))}`],
      ...(heldOut.length > 0
        ? ([[COLOURS.heldOut, `held out${ending(heldOut.at(-1)?.loss)}`]] as const)
        : []),
    ]),
    "</svg>",
    "",
  ]
    .filter((part, i, all) => part !== "" || i === all.length - 1)
    .join("\n");
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

interface Axis {
  readonly low: number;
  readonly high: number;
  readonly step: number;
  readonly ticks: readonly number[];
}

/** Round bounds around [low, high], and about six round ticks: steps of 1, 2 or 5 times a power of ten. */
function axis(low: number, high: number): Axis {
  if (!(low <= high)) return axis(0, 1);
  if (low === high) return axis(low - 0.5, high + 0.5);
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((times) => times * power >= rough) ?? 10);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  return { low: ticks[0]!, high: ticks.at(-1)!, step, ticks };
}

/** Evenly chosen entries with their indices, the last one among them. */
function thinned(losses: readonly number[]): (readonly [number, number])[] {
  const stride = Math.max(1, Math.ceil(losses.length / MAX_POINTS));
  return losses.flatMap((loss, i) =>
    i % stride === 0 || i === losses.length - 1 ? [[i, loss] as const] : [],
  );
}

function polyline(points: readonly (readonly [number, number])[], colour: string, style: string): string {
  if (points.length === 0) return "";
  const list = points.map(([px, py]) => `${round(px)},${round(py)}`).join(" ");
  return `<polyline points="${list}" fill="none" stroke="${colour}" stroke-linejoin="round" ${style}/>`;
}

function legend(entries: readonly (readonly [string, string])[]): string[] {
  return entries.map(([colour, name], i) => {
    const y = 18 + i * 16;
    return (
      `<line x1="${PLOT.right - 150}" x2="${PLOT.right - 130}" y1="${y}" y2="${y}" stroke="${colour}" stroke-width="2"/>` +
      `<text x="${PLOT.right - 124}" y="${y + 4}" fill="${COLOURS.text}">${name}</text>`
    );
  });
}

const ending = (loss: number | undefined): string => (loss === undefined ? "" : ` (${loss.toFixed(3)})`);

const scale = (value: number, low: number, high: number, from: number, to: number): number =>
  from + ((value - low) / (high - low)) * (to - from);

const round = (pixels: number): number => Math.round(pixels * 10) / 10;

/** As many decimals as tell the ticks apart. */
const label = (value: number, step: number): string =>
  value.toLocaleString("en-US", {
    minimumFractionDigits: Math.max(0, -Math.floor(Math.log10(step))),
    maximumFractionDigits: Math.max(0, -Math.floor(Math.log10(step))),
  });

const escapeMarkup = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
