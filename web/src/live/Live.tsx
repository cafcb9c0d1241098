import { useRef } from "preact/hooks";
import type { Load } from "../api/live.js";
import type { Report, StreamMap } from "../api/sessions.js";
import { exchanges, info, map, report } from "../endless/endless.js";
import { bytes, count } from "../format.js";
import { CachePicture } from "./CachePicture.js";
import { Chart } from "./Chart.js";
import { HISTORY, history, isConnected, isHeld, load } from "./live.js";

/** Beside the conversation, or alone where there is no room for both: what the server does, and what the endless log holds. */
export function Live({ isAlone }: { readonly isAlone: boolean }) {
  const Part = isAlone ? "main" : "aside";
  // What was is no longer so when the server is away.
  const now = isConnected.value ? load.value : null;
  const last = isConnected.value ? history.value.at(-1) : undefined;
  // What is shown of the log stands still with the rest.
  const log = useRef<{ readonly report: Report; readonly map: StreamMap | null } | null>(null);
  if (!report.value) log.current = null;
  else if (!isHeld.value || !log.current) log.current = { report: report.value, map: map.value };
  const source = exchanges.value.findLast((one) => one.source !== null)?.source?.block ?? null;
  return (
    <Part class="live" aria-label="What the server does" tabIndex={-1}>
      <header>
        <h2>Now</h2>
        <button
          type="button"
          class="quiet"
          aria-pressed={isHeld.value}
          onClick={() => {
            isHeld.value = !isHeld.value;
          }}
        >
          Hold still
        </button>
      </header>
      {!isConnected.value && <p>Waiting for the server.</p>}
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
      {log.current && info.value && (
        <>
          <h2>The endless log</h2>
          <Memory report={log.current.report} most={info.value.memory_bytes} />
          {log.current.map && <CachePicture map={log.current.map} source={source} />}
        </>
      )}
    </Part>
  );
}

/** What the log takes, and where all of its tokens are. */
function Memory({ report, most }: { readonly report: Report; readonly most: number }) {
  const { bytes: taken, seen, kept, demoted, merged, dropped } = report;
  return (
    <>
      <Meter label={`${bytes(taken)} of ${bytes(most)}`} value={taken} most={most} />
      <p class="fates">
        {count(seen)} tokens seen = {count(kept)} in memory + {count(demoted)} on disk + {count(merged)}{" "}
        merged + {count(dropped)} gone
      </p>
    </>
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
