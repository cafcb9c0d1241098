/** What this browser keeps for the page. Where it keeps nothing (forbidden, or full) the page goes on without. */
type Kind = "localStorage" | "sessionStorage";

/** Why something was not kept; null: it was. */
export type Unkept = "full" | "forbidden" | null;

/** Null where the browser forbids it: then already looking throws. */
function area(kind: Kind): Storage | null {
  try {
    return window[kind];
  } catch {
    return null;
  }
}

export function read<T>(name: string, otherwise: T, kind: Kind = "localStorage"): T {
  return parsed<T>(area(kind)?.getItem(name) ?? null) ?? otherwise;
}

/** Keeps `value`, or forgets what was kept where it is null. */
export function keep(name: string, value: unknown, kind: Kind = "localStorage"): Unkept {
  const store = area(kind);
  if (!store) return "forbidden";
  try {
    if (value === null) store.removeItem(name);
    else store.setItem(name, JSON.stringify(value));
    return null;
  } catch {
    return "full";
  }
}

/** The names that begin with `prefix`. */
export const namesOf = (prefix: string): string[] =>
  Object.keys(area("localStorage") ?? {}).filter((name) => name.startsWith(prefix));

/** What another tab of this browser keeps from now on; a value of null was forgotten there, and a name of null means all. */
export function onKept(then: (name: string | null, value: unknown) => void): void {
  addEventListener("storage", ({ key, newValue, storageArea }) => {
    if (storageArea === area("localStorage")) then(key, parsed(newValue));
  });
}

function parsed<T>(text: string | null): T | null {
  try {
    return JSON.parse(text ?? "null") as T | null;
  } catch {
    return null;
  }
}
