// Builds the page into dist/web, where anything under web/ is newer than it.
import { readdirSync, statSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const built = path.join(root, "dist", "web", "index.html");

const timeOf = (file) => statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0;
const sources = readdirSync(path.join(root, "web"), { recursive: true }).map((name) =>
  path.join(root, "web", name),
);
const newest = Math.max(timeOf(path.join(root, "package-lock.json")), ...sources.map(timeOf));

if (newest >= timeOf(built)) {
  const { build } = await import("vite");
  await build({
    root: path.join(root, "web"),
    configFile: path.join(root, "web", "vite.config.ts"),
    logLevel: "warn",
  });
}
