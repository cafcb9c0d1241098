/** Pictures of curves as SVG files: lines over axes with round ticks, readable on light and on dark. */

/** Points of one curve, in order of x; it is broken where a point is not finite. */
export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  /**
   * "line"; "marks": a line with a dot at every point; "faint": a thin line behind the others, which no axis is widened
   * for, with no entry in the legend. Default "line".
   */
  readonly style?: "line" | "marks" | "faint";
  /** Whose colour it has: series of one group look alike. Default: its own. */
  readonly group?: string;
  /** Drawn in dashes. */
  readonly dashed?: boolean;
}

export interface Axis {
  readonly label: string;
  /** "log": equal distances for equal factors; values must then be above 0. Default "linear". */
  readonly scale?: "linear" | "log";
  /** Shown at least. */
  readonly from?: number;
  readonly to?: number;
}

export interface Panel {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
}

const WIDTH = 800;
const PANEL_HEIGHT = 450;
const MARGIN = { left: 68, right: 28, top: 44, bottom: 48 } as const;
/** Points of a line at most: more than the picture has columns show nothing. */
const MAX_POINTS = 1000;
/** Rough width of a letter of the legend, in pixels. */
const LETTER = 6.4;

/** Colours that are told apart by people who see few, on light and on dark. */
const COLOURS = [
  "#3b7dd8",
  "#d8743b",
  "#2a9d6f",
  "#b45fc4",
  "#c09a1f",
  "#d14b64",
  "#3aa6b9",
  "#8f6f4e",
] as const;
const TEXT = "#6b7280";
const GRID = "#9ca3af";

/** An SVG file of one or several plots, one below the other. A plot without points has axes only. */
export function plot(...panels: readonly Panel[]): string {
  const height = PANEL_HEIGHT * panels.length;
  const [first] = panels;
  const legends = panels.map(({ series }) => (series.length > 1 ? series.filter(isNamed) : []));
  const longest = Math.max(0, ...legends.flat().map(({ name }) => name.length));
  const legend: LegendPlace = {
    // A short one has room in the corner beside the title; a long one gets a column of its own, in all panels alike.
    beside: legends.some((entries) => entries.length > 2),
    width: Math.min(WIDTH / 3, 34 + LETTER * longest),
  };
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" ` +
      'font-family="system-ui, sans-serif" font-size="12">',
    `<title>${escapeMarkup(first?.title ?? "")}</title>`,
    ...panels.flatMap((panel, i) =>
      i === 0
        ? draw(panel, legend)
        : [`<g transform="translate(0 ${i * PANEL_HEIGHT})">`, ...draw(panel, legend), "</g>"],
    ),
    "</svg>",
    "",
  ].join("\n");
}

const isNamed = ({ style }: Series): boolean => style !== "faint";

interface LegendPlace {
  readonly beside: boolean;
  readonly width: number;
}

function draw({ title, x: across, y: up, series }: Panel, { beside, width }: LegendPlace): string[] {
  const legend = series.filter(isNamed);
  const box = {
    left: MARGIN.left,
    right: WIDTH - MARGIN.right - (beside ? width : 0),
    top: MARGIN.top,
    bottom: PANEL_HEIGHT - MARGIN.bottom,
  };
  const strong = legend.some(({ points }) => points.length > 0) ? legend : series;
  const x = axis(
    across,
    series.flatMap(({ points }) => points.map(([value]) => value)),
  );
  const y = axis(
    up,
    strong.flatMap(({ points }) => points.map(([, value]) => value)),
  );
  const atX = (value: number) => box.left + x.place(value) * (box.right - box.left);
  const atY = (value: number) => box.bottom - y.place(value) * (box.bottom - box.top);
  const groups = [...new Set(series.map(groupOf))];
  const look = (one: Series) => ({
    colour: COLOURS[groups.indexOf(groupOf(one)) % COLOURS.length]!,
    dash: one.dashed || groups.indexOf(groupOf(one)) >= COLOURS.length ? ' stroke-dasharray="6 4"' : "",
  });
  const middle = (box.top + box.bottom) / 2;
  return [
    `<text x="${box.left}" y="24" font-size="15" fill="${TEXT}">${escapeMarkup(title)}</text>`,
    ...y.ticks.map((tick) => {
      const at = atY(tick);
      return (
        `<line x1="${box.left}" x2="${round(box.right)}" y1="${round(at)}" y2="${round(at)}" stroke="${GRID}" stroke-opacity="0.35"/>` +
        `<text x="${box.left - 8}" y="${round(at + 4)}" text-anchor="end" fill="${TEXT}">${y.label(tick)}</text>`
      );
    }),
    ...x.ticks.map((tick) => {
      const at = round(atX(tick));
      return (
        `<line x1="${at}" x2="${at}" y1="${box.bottom}" y2="${box.bottom + 5}" stroke="${GRID}"/>` +
        `<text x="${at}" y="${box.bottom + 19}" text-anchor="middle" fill="${TEXT}">${x.label(tick)}</text>`
      );
    }),
    `<line x1="${box.left}" x2="${round(box.right)}" y1="${box.bottom}" y2="${box.bottom}" stroke="${GRID}"/>`,
    `<text x="${round((box.left + box.right) / 2)}" y="${PANEL_HEIGHT - 10}" text-anchor="middle" fill="${TEXT}">` +
      `${escapeMarkup(across.label)}</text>`,
    `<text x="16" y="${middle}" text-anchor="middle" fill="${TEXT}" transform="rotate(-90 16 ${middle})">` +
      `${escapeMarkup(up.label)}</text>`,
    ...series.flatMap((one) => curve(one, look(one), atX, atY)),
    ...(series.length > 1 ? legend : []).map((one, i) => {
      const { colour, dash } = look(one);
      const left = round(beside ? box.right + 14 : box.right - width);
      const at = (beside ? box.top + 6 : 18) + i * 16;
      return (
        `<line x1="${left}" x2="${left + 18}" y1="${at}" y2="${at}" stroke="${colour}" stroke-width="2"${dash}/>` +
        `<text x="${left + 24}" y="${at + 4}" fill="${TEXT}">${escapeMarkup(one.name)}</text>`
      );
    }),
  ];
}

const groupOf = ({ group, name }: Series): string => group ?? name;

function curve(
  { points, style = "line" }: Series,
  { colour, dash }: { readonly colour: string; readonly dash: string },
  atX: (value: number) => number,
  atY: (value: number) => number,
): string[] {
  const drawn = thinned(points).map(([x, y]) => [round(atX(x)), round(atY(y))] as const);
  const width = style === "faint" ? 'stroke-width="1" stroke-opacity="0.3"' : 'stroke-width="2"';
  const lines = runs(drawn).map(
    (run) =>
      `<polyline points="${run.map((pair) => pair.join(",")).join(" ")}" fill="none" stroke="${colour}" ` +
      `stroke-linejoin="round" ${width}${dash}/>`,
  );
  if (style !== "marks") return lines;
  const dots = drawn.filter(isDrawable);
  return [...lines, ...dots.map(([cx, cy]) => `<circle cx="${cx}" cy="${cy}" r="2.5" fill="${colour}"/>`)];
}

const isDrawable = ([x, y]: readonly [number, number]): boolean => Number.isFinite(x) && Number.isFinite(y);

/** The stretches between points that cannot be drawn. */
function runs(points: readonly (readonly [number, number])[]): (readonly [number, number])[][] {
  const found: (readonly [number, number])[][] = [];
  let open = false;
  for (const point of points) {
    const drawable = isDrawable(point);
    if (drawable && open) found.at(-1)!.push(point);
    else if (drawable) found.push([point]);
    open = drawable;
  }
  return found;
}

/** Evenly chosen points, the last one among them. */
function thinned<T>(points: readonly T[]): readonly T[] {
  const stride = Math.ceil(points.length / MAX_POINTS);
  if (stride <= 1) return points;
  return points.filter((_, i) => i % stride === 0 || i === points.length - 1);
}

interface DrawnAxis {
  /** Of a value, from 0 to 1; what lies outside is drawn on the edge. */
  place(value: number): number;
  readonly ticks: readonly number[];
  label(tick: number): string;
}

function axis({ scale, from, to }: Axis, values: readonly number[]): DrawnAxis {
  const log = scale === "log";
  let low = from ?? Number.POSITIVE_INFINITY;
  let high = to ?? Number.NEGATIVE_INFINITY;
  for (const value of values) {
    if (!Number.isFinite(value) || (log && value <= 0)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return log ? logarithmic(low, high) : linear(low, high);
}

/** Round bounds around [low, high], and about six round ticks: steps of 1, 2 or 5 times a power of ten. */
function linear(low: number, high: number): DrawnAxis {
  if (!(low <= high)) return linear(0, 1);
  if (low === high) return linear(low - 0.5, high + 0.5);
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((times) => times * power >= rough) ?? 10);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  const [start, end] = [ticks[0]!, ticks.at(-1)!];
  // As many decimals as tell the ticks apart.
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return {
    place: (value) => (Math.min(end, Math.max(start, value)) - start) / (end - start),
    ticks,
    label: (tick) => number(tick, decimals),
  };
}

/** Round bounds around [low, high], and about as many ticks as fit: at 1 to 9 times a power of ten, 1, 2 and 5 times, or 1. */
function logarithmic(low: number, high: number): DrawnAxis {
  if (!(low <= high)) return logarithmic(1, 10);
  const factors = high / low < 8 ? [1, 2, 3, 4, 5, 6, 7, 8, 9] : [1, 2, 5];
  const decade = Math.floor(Math.log10(low));
  const marks = Array.from({ length: Math.ceil(Math.log10(high)) - decade + 2 }, (_, i) =>
    factors.map((times) => times * 10 ** (decade + i)),
  ).flat();
  const start = marks.findLast((mark) => mark <= low * 1.0001)!;
  const end = marks.find((mark) => mark >= high * 0.9999 && mark > start)!;
  const inside = marks.filter((mark) => mark >= start && mark <= end);
  const powers = inside.filter((mark) => Math.abs(Math.log10(mark) - Math.round(Math.log10(mark))) < 1e-6);
  const [least, most] = [Math.log(start), Math.log(end)];
  return {
    place: (value) => (Math.log(Math.min(end, Math.max(start, value))) - least) / (most - least),
    ticks: inside.length > 12 ? powers : inside,
    label: (tick) => number(tick, Math.max(0, -Math.floor(Math.log10(tick) + 1e-9))),
  };
}

function number(value: number, decimals: number): string {
  const [scaled, unit] = Math.abs(value) >= 1e6 ? [value / 1e6, "M"] : [value, ""];
  const digits = unit ? { maximumFractionDigits: 2 } : fraction(decimals);
  return scaled.toLocaleString("en-US", digits) + unit;
}

const fraction = (digits: number) => ({ minimumFractionDigits: digits, maximumFractionDigits: digits });

const round = (pixels: number): number => Math.round(pixels * 10) / 10;

const escapeMarkup = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
