// Finds Chromium: the one that the variable CHROMIUM names, else the first on the path.
import { accessSync, constants } from "node:fs";
import path from "node:path";

const NAMES = ["chromium", "chromium-browser", "google-chrome"];

const canRun = (file) => {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
};

/** Its path, or undefined where there is none. */
export function findChromium() {
  return (
    process.env.CHROMIUM ??
    process.env.PATH.split(path.delimiter)
      .flatMap((folder) => NAMES.map((name) => path.join(folder, name)))
      .find(canRun)
  );
}
