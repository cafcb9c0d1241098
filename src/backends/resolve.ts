/** Finds a backend by name. Each is loaded only when it is asked for. */
import { MillraceError } from "../errors.js";
import type { Backend, BackendName, BackendOptions } from "./contract.js";

export const BACKEND_NAMES = [
  "reference",
  "null",
  "wasm",
  "native",
] as const satisfies readonly BackendName[];

/** What `createBackend` chose, and for "auto" why not something faster. */
export interface ResolvedBackend {
  readonly backend: Backend;
  /** One line for people where "auto" had to pass over the native backend, else null. */
  readonly reason: string | null;
}

/**
 * The backend of this name, ready to load weights. "auto" is native where it can be built and run, else wasm.
 * Throws INVALID_ARGUMENT for an unknown name, and BACKEND_UNAVAILABLE where the machine cannot run the one asked
 * for ("auto": neither of the two, with both reasons); SELF_CHECK_FAILED where it computes wrongly there.
 */
export async function createBackend(
  name: BackendName | "auto",
  options: BackendOptions = {},
): Promise<ResolvedBackend> {
  if (name !== "auto") return { backend: await create(name, options), reason: null };
  try {
    return { backend: await create("native", options), reason: null };
  } catch (error) {
    const reason = `native backend not used: ${unavailable(error).message}`;
    try {
      return { backend: await create("wasm", options), reason };
    } catch (second) {
      throw new MillraceError(
        "BACKEND_UNAVAILABLE",
        `No backend runs here. Native: ${unavailable(error).message} Wasm: ${unavailable(second).message}`,
        {},
        { cause: second },
      );
    }
  }
}

/** Reasons to try another backend; anything else (a wrong option, a bug of ours) is the caller's to see. */
function unavailable(error: unknown): MillraceError {
  const known = MillraceError.from(error);
  if (known.code === "BACKEND_UNAVAILABLE" || known.code === "SELF_CHECK_FAILED") return known;
  throw known;
}

/** The compiled backends must prove themselves; the reference is the proof, and null claims nothing. */
async function create(name: BackendName, options: BackendOptions): Promise<Backend> {
  switch (name) {
    case "reference":
      return (await import("./reference/index.js")).createReference(options);
    case "null":
      return (await import("./null.js")).createNull(options);
    case "wasm":
      return checked(await (await import("./wasm/index.js")).createWasm(options));
    case "native":
      return checked(await (await import("./native/index.js")).createNative(options));
    default:
      name satisfies never;
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Unknown backend "${name}"; expected one of ${BACKEND_NAMES.join(", ")} or auto.`,
      );
  }
}

/** The backend, once it has passed its self-check; it is disposed of where it fails. */
async function checked(backend: Backend): Promise<Backend> {
  try {
    const { selfCheck } = await import("./selfcheck.js");
    await selfCheck(backend);
    return backend;
  } catch (error) {
    await backend.dispose();
    throw error;
  }
}
