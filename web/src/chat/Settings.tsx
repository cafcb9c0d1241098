import { useRef } from "preact/hooks";
import { DEFAULTS, set, settings } from "./conversations.js";

/** How answers are made; kept in this browser. */
export function SettingsDialog({ models }: { readonly models: readonly string[] }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const { model, system, temperature, topP, maxTokens } = settings.value;
  return (
    <>
      <button type="button" class="quiet" onClick={() => dialog.current?.showModal()}>
        Settings
      </button>
      <dialog ref={dialog} class="settings" aria-label="Settings">
        <form method="dialog">
          <h2>Settings</h2>
          <label>
            Model
            <select value={model} onChange={({ currentTarget }) => set({ model: currentTarget.value })}>
              <option value="default">the first ({models[0] ?? "not loaded"})</option>
              {models.map((name) => (
                <option key={name}>{name}</option>
              ))}
              {model !== "default" && !models.includes(model) && (
                <option value={model}>{model} (not on this server now)</option>
              )}
            </select>
          </label>
          <label>
            System message
            <textarea
              rows={3}
              value={system}
              onInput={({ currentTarget }) => set({ system: currentTarget.value })}
            />
          </label>
          <label>
            Temperature: {temperature}
            <input
              type="range"
              min="0"
              max="2"
              step="0.05"
              value={temperature}
              onInput={({ currentTarget }) => set({ temperature: currentTarget.valueAsNumber })}
            />
          </label>
          <label>
            Top p: {topP}
            <input
              type="range"
              min="0.05"
              max="1"
              step="0.05"
              value={topP}
              onInput={({ currentTarget }) => set({ topP: currentTarget.valueAsNumber })}
            />
          </label>
          <label>
            Longest answer, in tokens
            <input
              type="number"
              min="1"
              max="100000"
              value={maxTokens}
              onChange={({ currentTarget }) => {
                const asked = currentTarget.valueAsNumber;
                set({ maxTokens: Number.isInteger(asked) && asked >= 1 ? asked : DEFAULTS.maxTokens });
              }}
            />
          </label>
          <div class="buttons">
            <button type="button" class="quiet" onClick={() => set(DEFAULTS)}>
              As at first
            </button>
            <button type="submit">Done</button>
          </div>
        </form>
      </dialog>
    </>
  );
}
