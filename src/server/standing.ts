/** Where a request stands among those of others. */
import type { StandingOptions } from "../index.js";

/** What a request says of it; null is nothing said. */
interface Asked {
  readonly priority?: number | null | undefined;
  readonly deadline?: number | string | null | undefined;
}

/** The API's options for those: turns count for `client`, whatever the request says. */
export function standingOf({ priority, deadline }: Asked, client: string): StandingOptions {
  return {
    client,
    ...(typeof priority === "number" ? { priority } : {}),
    ...(deadline === null || deadline === undefined ? {} : { deadline }),
  };
}
