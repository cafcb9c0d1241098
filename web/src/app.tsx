import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { listModels } from "./api/chat.js";
import { apiKey, ServerError } from "./api/http.js";
import { Chat } from "./chat/Chat.js";
import { Conversations } from "./chat/Conversations.js";
import { SettingsDialog } from "./chat/Settings.js";
import { Endless } from "./endless/Endless.js";
import { Live } from "./live/Live.js";

const models = signal<readonly string[]>([]);
const failure = signal<ServerError | null>(null);
const view = signal<"chat" | "endless" | "live">("chat");
const isMenuOpen = signal(false);

async function connect(): Promise<void> {
  try {
    models.value = await listModels();
    failure.value = null;
  } catch (error) {
    failure.value = error instanceof ServerError ? error : new ServerError(0, null, String(error));
    if (failure.value.status !== 401) setTimeout(connect, 2000);
  }
}

export function App() {
  useEffect(() => void connect(), []);
  return (
    <div class={`app view-${view.value}`}>
      <header class="top">
        <button
          type="button"
          class="quiet menu"
          aria-expanded={isMenuOpen.value}
          aria-controls="conversations"
          onClick={() => {
            isMenuOpen.value = !isMenuOpen.value;
          }}
        >
          Conversations
        </button>
        <h1>Millrace</h1>
        <nav aria-label="Views">
          {(["chat", "endless", "live"] as const).map((name) => (
            <button
              key={name}
              type="button"
              class={`tab to-${name}`}
              aria-current={view.value === name ? "page" : undefined}
              onClick={() => {
                view.value = name;
              }}
            >
              {{ chat: "Chat", endless: "Endless log", live: "Live" }[name]}
            </button>
          ))}
        </nav>
        <SettingsDialog models={models.value} />
      </header>
      {failure.value && <Trouble error={failure.value} />}
      <Conversations
        open={isMenuOpen.value}
        onChoose={() => {
          isMenuOpen.value = false;
          view.value = "chat";
        }}
      />
      <main>{view.value === "endless" ? <Endless model={models.value[0] ?? "default"} /> : <Chat />}</main>
      <Live />
    </div>
  );
}

function Trouble({ error }: { readonly error: ServerError }) {
  if (error.status !== 401) return <p class="problem trouble">{error.message}</p>;
  return (
    <form
      class="problem trouble"
      onSubmit={(event) => {
        event.preventDefault();
        apiKey.set(String(new FormData(event.currentTarget).get("key") ?? ""));
        void connect();
      }}
    >
      <label>
        This server wants a key: <input name="key" type="password" autocomplete="off" required />
      </label>{" "}
      <button type="submit">Use it</button>
    </form>
  );
}
