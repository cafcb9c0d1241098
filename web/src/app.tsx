import { effect, signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { announced } from "./announce.js";
import { listModels } from "./api/chat.js";
import { apiKey, type ServerError } from "./api/http.js";
import { Chat } from "./chat/Chat.js";
import { Conversations } from "./chat/Conversations.js";
import { SettingsDialog } from "./chat/Settings.js";
import { Endless } from "./endless/Endless.js";
import { focusComposer } from "./focus.js";
import { Live } from "./live/Live.js";
import { isConnected, trouble, tryAgain } from "./live/live.js";

const VIEWS = { chat: "Chat", endless: "Endless log", live: "Live" } as const;
type View = keyof typeof VIEWS;

const models = signal<readonly string[]>([]);
const view = signal<View>(asked());
const isMenuOpen = signal(false);

/** The view that the address names, so that it can be come back to. */
function asked(): View {
  const name = location.hash.slice(1);
  return name in VIEWS ? (name as View) : "chat";
}
/** On a phone one view fills the page; elsewhere the live one stands beside the others. */
const narrow = matchMedia("(max-width: 46rem)");
const isNarrow = signal(narrow.matches);
narrow.addEventListener("change", ({ matches }) => {
  isNarrow.value = matches;
});
addEventListener("hashchange", () => {
  view.value = asked();
});
effect(() => {
  document.title = view.value === "chat" ? "Millrace" : `${VIEWS[view.value]} · Millrace`;
});
// Also a server that was started anew may have other models.
effect(() => {
  if (isConnected.value)
    listModels().then(
      (list) => {
        models.value = list;
      },
      () => {},
    );
});

export function App() {
  const menu = useRef<HTMLButtonElement>(null);
  const page = useRef<HTMLDivElement>(null);
  const closeMenu = () => {
    isMenuOpen.value = false;
  };
  useEffect(() => {
    if (!isMenuOpen.value) return;
    const leave = ({ target }: Event) => {
      if (target instanceof Element && !target.closest("#conversations, .menu")) closeMenu();
    };
    const leaveByKey = ({ key }: KeyboardEvent) => {
      if (key !== "Escape") return;
      closeMenu();
      menu.current?.focus();
    };
    const part = page.current;
    for (const event of ["pointerdown", "focusin"]) part?.addEventListener(event, leave);
    part?.addEventListener("keydown", leaveByKey);
    return () => {
      for (const event of ["pointerdown", "focusin"]) part?.removeEventListener(event, leave);
      part?.removeEventListener("keydown", leaveByKey);
    };
  }, [isMenuOpen.value]);

  return (
    <div ref={page} class={`app view-${view.value}`}>
      <button
        type="button"
        class="skip"
        onClick={() => document.querySelector<HTMLElement>(view.value === "live" ? ".live" : "main")?.focus()}
      >
        Skip to what is shown
      </button>
      <header class="top">
        <h1>Millrace</h1>
        <button
          ref={menu}
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
        <nav aria-label="Views">
          {(Object.keys(VIEWS) as View[]).map((name) => (
            <a
              key={name}
              class={`tab to-${name}`}
              href={`#${name}`}
              aria-current={view.value === name ? "page" : undefined}
            >
              {VIEWS[name]}
            </a>
          ))}
        </nav>
        <SettingsDialog models={models.value} />
      </header>
      <div class="trouble" role="status">
        {trouble.value && <Trouble error={trouble.value} />}
      </div>
      <Conversations
        open={isMenuOpen.value}
        onChoose={({ isNew }) => {
          const wasOver = isMenuOpen.value;
          closeMenu();
          const isByKey = document.activeElement?.matches(":focus-visible");
          view.value = "chat";
          if (asked() !== "chat") location.hash = "chat";
          // Not where a phone's keyboard would jump up.
          if ((isNew || wasOver) && (isByKey || matchMedia("(pointer: fine)").matches))
            requestAnimationFrame(focusComposer);
        }}
      />
      <main id="main" tabIndex={-1}>
        {view.value === "endless" ? <Endless models={models.value} /> : <Chat />}
      </main>
      <Live isAlone={isNarrow.value && view.value === "live"} />
      <div class="hidden" role="status">
        {announced.value}
      </div>
    </div>
  );
}

function Trouble({ error: { status, message } }: { readonly error: ServerError }) {
  if (status === 0)
    return (
      <p class="problem">
        The server cannot be reached. This page goes on when it is back; nothing typed is lost.
      </p>
    );
  if (status !== 401) return <p class="problem">{message}</p>;
  return (
    <form
      class="problem"
      onSubmit={(event) => {
        event.preventDefault();
        apiKey.set(String(new FormData(event.currentTarget).get("key") ?? ""));
        tryAgain();
      }}
    >
      <label>
        This server wants {apiKey.get() === "" ? "a key" : "another key"}:{" "}
        <input name="key" type="password" autocomplete="off" required />
      </label>{" "}
      <button type="submit">Use it</button>
    </form>
  );
}
