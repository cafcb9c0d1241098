import { useEffect, useRef } from "preact/hooks";
import type { GroupMap, StreamMap } from "../api/sessions.js";
import { count } from "../format.js";

const ROW = 18;
const GAP = 3;
const STATES = ["memory", "recalled", "disk", "merged", "gone"] as const;
type Place = (typeof STATES)[number];
const WORDS: Record<Place, string> = {
  memory: "in memory",
  recalled: "recalled",
  disk: "on disk",
  merged: "merged",
  gone: "gone",
};

interface Props {
  readonly map: StreamMap;
  /** The stored block that the last answer was recalled from; null: none. */
  readonly source: { readonly first: number; readonly last: number } | null;
}

/** Where the tokens of a stream are: a row for every layer, from the stream's beginning to now. */
export function CachePicture({ map, source }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const rows = layersOf(map);
  const height = rows.length * (ROW + GAP) - GAP;

  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const draw = () => paint(element, map, height);
    draw();
    const resized = new ResizeObserver(draw);
    resized.observe(element);
    const schemes = ["(prefers-color-scheme: dark)", "(forced-colors: active)"].map((what) =>
      matchMedia(what),
    );
    for (const scheme of schemes) scheme.addEventListener("change", draw);
    return () => {
      resized.disconnect();
      for (const scheme of schemes) scheme.removeEventListener("change", draw);
    };
  }, [map, height]);

  return (
    <figure class="picture">
      <figcaption>Where the tokens are, by layer</figcaption>
      <div class="rows">
        <ol aria-hidden="true">
          {rows.map(({ layer }) => (
            <li key={layer} style={{ height: `${ROW}px` }}>
              {layer + 1}
            </li>
          ))}
        </ol>
        {/* A row's figures are in the table below. */}
        <canvas
          ref={canvas}
          style={{ height: `${height}px` }}
          role="img"
          aria-label={inWords(map, rows, source)}
        />
      </div>
      {source && (
        <div class="marker" aria-hidden="true">
          <i
            style={{
              left: `${(50 * (source.first + source.last + 1)) / Math.max(1, columnsOf(map) * map.width)}%`,
            }}
          />
        </div>
      )}
      <div class="scale" aria-hidden="true">
        <span>token 1</span>
        <span>{count(map.seen)}</span>
      </div>
      <ul class="legend">
        {STATES.map((place) => (
          <li key={place}>
            <i class={`swatch ${place}`} /> {WORDS[place]}
          </li>
        ))}
        {source && (
          <li>
            <i class="pointer" /> says the last answer
          </li>
        )}
      </ul>
      <details class="same">
        <summary>The same in figures</summary>
        <table>
          <caption class="hidden">Tokens by layer, and where they are</caption>
          <thead>
            <tr>
              <th scope="col">Layer</th>
              {STATES.map((place) => (
                <th key={place} scope="col">
                  {WORDS[place]}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map(({ layer, group }) => {
              const totals = totalsOf(group, map);
              return (
                <tr key={layer}>
                  <th scope="row">{layer + 1}</th>
                  {STATES.map((place) => (
                    <td key={place}>{count(totals[place])}</td>
                  ))}
                </tr>
              );
            })}
          </tbody>
        </table>
      </details>
    </figure>
  );
}

interface Row {
  readonly layer: number;
  readonly group: GroupMap;
}

/** One row a layer; where heads of a layer differ, the group of its first. */
function layersOf({ groups }: StreamMap): Row[] {
  const rows = new Map<number, GroupMap>();
  for (const group of groups) for (const layer of group.layers) if (!rows.has(layer)) rows.set(layer, group);
  return [...rows].sort(([a], [b]) => a - b).map(([layer, group]) => ({ layer, group }));
}

const columnsOf = ({ groups }: StreamMap): number => groups[0]?.memory.length ?? 0;

/** Tokens of a layer by where they are: each is in one place, and those that were recalled are also on disk. */
function totalsOf({ memory, merged, disk, recalled }: GroupMap, { seen }: StreamMap): Record<Place, number> {
  const sum = (values: readonly number[]) => values.reduce((all, value) => all + value, 0);
  const [inMemory, onDisk, part] = [sum(memory), sum(disk), sum(merged)];
  return {
    memory: inMemory,
    recalled: sum(recalled),
    disk: onDisk,
    merged: part,
    gone: Math.max(0, seen - inMemory - onDisk - part),
  };
}

/** What the picture shows, for those who do not see it. */
function inWords(map: StreamMap, rows: readonly Row[], source: Props["source"]): string {
  const [row] = rows;
  if (!row) return "Nothing yet.";
  const totals = totalsOf(row.group, map);
  const places = STATES.filter((place) => totals[place] > 0).map(
    (place) => `${count(totals[place])} ${WORDS[place]}`,
  );
  const from = source
    ? ` The last answer was recalled from tokens ${count(source.first)} to ${count(source.last)}.`
    : "";
  return `${count(map.seen)} tokens in ${rows.length} layers. Layer 1: ${places.join(", ")}.${from}`;
}

function paint(canvas: HTMLCanvasElement, map: StreamMap, height: number): void {
  const width = canvas.clientWidth;
  const scale = devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  if (!context) return;
  context.scale(scale, scale);
  const style = getComputedStyle(canvas);
  const colours = Object.fromEntries(
    STATES.map((place) => [place, style.getPropertyValue(`--${place}`).trim()]),
  ) as Record<Place, string>;
  for (const [row, { group }] of layersOf(map).entries()) {
    const columns = group.memory.length;
    for (let column = 0; column < columns; column++) {
      const tokens = Math.min(map.width, map.seen - column * map.width);
      if (tokens <= 0) break;
      const recalled = group.recalled[column]!;
      const parts: [Place, number][] = [
        ["memory", group.memory[column]!],
        ["recalled", recalled],
        ["disk", group.disk[column]! - recalled],
        ["merged", group.merged[column]!],
      ];
      // On whole pixels: columns that only touch would show seams.
      const edge = (at: number) => Math.round((at * width * scale) / columns) / scale;
      const left = edge(column);
      const right = edge(column + 1);
      const top = row * (ROW + GAP);
      context.fillStyle = colours.gone;
      context.fillRect(left, top, right - left, ROW);
      let from = 0;
      for (const [place, held] of parts) {
        // What is there at all can be seen: three lines of a row at least.
        const share = held > 0 ? Math.max(held / tokens, 0.17) : 0;
        const size = Math.min(share * ROW, ROW - from);
        context.fillStyle = colours[place];
        context.fillRect(left, top + from, right - left, size);
        from += size;
      }
    }
  }
}
