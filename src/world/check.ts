import { MillraceError } from "../errors.js";

/** Throws INVALID_ARGUMENT, which names the option, what was got and what was expected. */
export function check(ok: boolean, name: string, got: unknown, expected: string): asserts ok {
  if (ok) return;
  throw new MillraceError("INVALID_ARGUMENT", `${name}: got ${String(got)}; expected ${expected}.`, { name });
}
