import type { Load } from "../api/live.js";
import { info, map, report } from "../endless/endless.js";
import { bytes, count } from "../format.js";
import { CachePicture } from "./CachePicture.js";
import { Chart } from "./Chart.js";
import { HISTORY, history, isConnected, load } from "./live.js";

/** Beside the conversation: what the server does, and what the endless log holds. */
export function Live() {
  const now = load.value;
  const last = history.value.at(-1);
  return (
    <aside class="live" aria-label="What the server does">
      <h2>Now</h2>
      {!isConnected.value && <p class="problem">Waiting for the server.</p>}
      <Chart
        label="Tokens a second"
        values={history.value.map(({ rate }) => rate)}
        most={HISTORY}
        now={last ? count(last.rate) : "none"}
      />
      <Chart
        label="Between two tokens (p99)"
        values={history.value.map(({ gap }) => gap)}
        most={HISTORY}
        now={now?.gap_ms ? `${count(now.gap_ms.p99)} ms` : "none"}
      />
      {now && (
        <dl>
          {now.models.map((model) => (
            <div key={model.name}>
              <dt>{model.name}</dt>
              <dd>
                {count(model.running)} running, {count(model.waiting)} waiting
                <Meter
                  label={cacheInWords(model)}
                  value={model.used_bytes}
                  second={model.cached_bytes}
                  most={model.cache_bytes}
                />
              </dd>
            </div>
          ))}
          <div>
            <dt>Process</dt>
            <dd>{bytes(now.resident_bytes)} resident</dd>
          </div>
        </dl>
      )}
      {report.value && info.value && (
        <>
          <h2>The endless log</h2>
          <Meter
            label={`${bytes(report.value.bytes)} of ${bytes(info.value.memory_bytes)}`}
            value={report.value.bytes}
            most={info.value.memory_bytes}
          />
          <p class="fates">
            {count(report.value.seen)} tokens seen = {count(report.value.kept)} in memory +{" "}
            {count(report.value.demoted)} on disk + {count(report.value.merged)} merged +{" "}
            {count(report.value.dropped)} gone
          </p>
          {map.value && <CachePicture map={map.value} />}
        </>
      )}
    </aside>
  );
}

/** What requests hold in the cache, and what is kept of earlier ones until the room is needed. */
function cacheInWords({ used_bytes, cached_bytes, cache_bytes }: Load["models"][number]): string {
  const kept = cached_bytes > 0 ? `, ${bytes(cached_bytes)} kept of earlier prompts` : "";
  return `Cache: ${bytes(used_bytes)} of ${bytes(cache_bytes)}${kept}`;
}

interface MeterProps {
  readonly label: string;
  readonly value: number;
  /** Held beside it, and given up when it is needed. */
  readonly second?: number;
  readonly most: number;
}

function Meter({ label, value, second = 0, most }: MeterProps) {
  const percent = (part: number) => `${Math.min(100, (100 * part) / Math.max(1, most))}%`;
  return (
    <div class="meter">
      <span>{label}</span>
      <div class="bar" aria-hidden="true">
        <i style={{ width: percent(value) }} />
        <i class="second" style={{ width: percent(second) }} />
      </div>
    </div>
  );
}
