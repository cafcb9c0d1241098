import { createRequire } from "node:module";

/** The package's version. */
export const { version: VERSION } = createRequire(import.meta.url)("../../package.json") as {
  version: string;
};
