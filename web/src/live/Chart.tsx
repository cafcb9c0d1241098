import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

interface Props {
  readonly label: string;
  /** Oldest first. */
  readonly values: readonly (number | null)[];
  /** How many of them the chart has room for: the newest is at its right edge. */
  readonly most: number;
  /** The newest value in words, for those who do not see the line. */
  readonly now: string;
}

const HEIGHT = 56;

/** A line over the last minute. */
export function Chart({ label, values, most, now }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);

  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const colour = () => getComputedStyle(element).getPropertyValue("--accent").trim();
    const made = new uPlot(
      {
        width: element.clientWidth || 240,
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        padding: [4, 0, 4, 0],
        axes: [{ show: false }, { show: false }],
        scales: {
          x: { time: false, range: [1 - most, 0] },
          y: { range: (_, __, highest) => [0, Math.max(highest * 1.1, 1)] },
        },
        series: [{}, { stroke: colour, width: 1.5, spanGaps: true, points: { show: false } }],
      },
      [[], []],
      element,
    );
    plot.current = made;
    const resized = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height: HEIGHT }));
    resized.observe(element);
    return () => {
      resized.disconnect();
      made.destroy();
    };
  }, []);

  useEffect(() => {
    plot.current?.setData([values.map((_, i) => i + 1 - values.length), [...values]]);
  }, [values]);

  return (
    <figure class="chart">
      <figcaption>
        <span>{label}</span> <strong>{now}</strong>
      </figcaption>
      <div ref={box} aria-hidden="true" />
    </figure>
  );
}
