/** Which files of a repository a source such as "hf:owner/repo:Q4_K_M" means. Pure: no network, no disk. */
import type { ListFileEntry } from "@huggingface/hub";
import { MillraceError } from "../errors.js";

export interface HubSource {
  /** As it was given. */
  readonly name: string;
  /** "owner/repo". */
  readonly repo: string;
  /** Branch, tag or commit. */
  readonly revision: string;
  readonly wanted:
    | { readonly kind: "path"; readonly path: string }
    | { readonly kind: "tag"; readonly tag: string }
    | { readonly kind: "any" };
}

/** The files to have, and which of them (or which folder) to open. */
export interface Choice {
  readonly path: string;
  readonly files: readonly ListFileEntry[];
}

const SOURCE =
  /^hf:(?<repo>[\w.-]+\/[\w.-]+)(?:@(?<revision>[^:/@\s]+))?(?::(?<tag>[\w.-]+)|\/(?<path>.+))?$/;

/** Taken where a repository has several GGUF models and no tag is given. */
const DEFAULT_TAG = "Q4_K_M";

/** Files beside safetensors that a model needs. */
const COMPANIONS = new Set([
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
]);

/** Reads "hf:owner/repo[@revision][/path | :TAG]". Throws INVALID_ARGUMENT. */
export function parseHubSource(name: string): HubSource {
  const { repo, revision, tag, path } = SOURCE.exec(name)?.groups ?? {};
  if (repo === undefined || repo.split("/").some(isDots) || (path !== undefined && !isInside(path))) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `Got the source ${JSON.stringify(name)}, expected hf:owner/repo, hf:owner/repo/path/to/file or hf:owner/repo:TAG ` +
        "(a quantisation such as Q4_K_M), with @revision after the repository if wanted.",
      { source: name },
    );
  }
  return {
    name,
    repo,
    revision: revision === undefined ? "main" : decodeURIComponent(revision),
    wanted:
      tag !== undefined
        ? { kind: "tag", tag }
        : path !== undefined
          ? { kind: "path", path }
          : { kind: "any" },
  };
}

/** Throws FILE_NOT_FOUND or INVALID_ARGUMENT (several could be meant), listing what the repository has. */
export function chooseFiles(entries: readonly ListFileEntry[], source: HubSource): Choice {
  // A listing is input like any other: nothing in it may lead out of the cache's folder.
  const files = entries.filter(({ path }) => isInside(path));
  const { wanted } = source;
  switch (wanted.kind) {
    case "path":
      return byPath(files, source, wanted.path.replace(/\/$/, ""));
    case "tag":
      return byTag(files, source, wanted.tag);
    case "any":
      return safetensors(files, "") ?? onlyGguf(files, source);
  }
  return wanted satisfies never;
}

function byPath(files: readonly ListFileEntry[], source: HubSource, path: string): Choice {
  const file = files.find((entry) => entry.path === path);
  if (!file) {
    const folder = safetensors(files, path);
    if (folder) return folder;
    throw notFound(files, source, `no file or safetensors folder ${path}`);
  }
  if (path.endsWith(".safetensors") || path.endsWith(".safetensors.index.json")) {
    const whole = safetensors(files, folderOf(path));
    if (whole?.files.includes(file)) return { path, files: whole.files };
    return { path, files: [...companions(files, folderOf(path)), file] };
  }
  const parts = partsOf(files, path);
  return { path: parts[0]?.path ?? path, files: parts.length > 0 ? parts : [file] };
}

function byTag(files: readonly ListFileEntry[], source: HubSource, tag: string): Choice {
  const matches = models(files).filter(({ path }) => hasTag(path, tag));
  if (matches.length === 1) return byPath(files, source, matches[0]!.path);
  if (matches.length === 0) throw notFound(files, source, `no GGUF model with ${tag} in its name`);
  throw ambiguous(matches, source, `${matches.length} GGUF models with ${tag}`);
}

function onlyGguf(files: readonly ListFileEntry[], source: HubSource): Choice {
  const all = models(files);
  if (all.length === 1) return byPath(files, source, all[0]!.path);
  if (all.length === 0) throw notFound(files, source, "neither safetensors nor GGUF files");
  if (all.filter(({ path }) => hasTag(path, DEFAULT_TAG)).length === 1)
    return byTag(files, source, DEFAULT_TAG);
  throw ambiguous(all, source, `${all.length} GGUF models`);
}

const models = (files: readonly ListFileEntry[]): ListFileEntry[] =>
  files.filter(({ path }) => isModelFile(path));

/** Whether this is a GGUF language model by its name: no later part of one, vision projector or importance matrix. */
export function isModelFile(path: string): boolean {
  return (
    path.endsWith(".gguf") &&
    !/-(?!00001)\d{5}-of-\d{5}\.gguf$/.test(path) &&
    !/(^|[-._/])(mmproj|imatrix)[-._]/i.test(path)
  );
}

/** "Q4_K" is in "model-Q4_K.gguf" and not in "model-Q4_K_M.gguf". */
function hasTag(path: string, tag: string): boolean {
  const escaped = tag.replace(/[.-]/g, "\\$&");
  return new RegExp(`(^|[^A-Za-z0-9])${escaped}($|[^A-Za-z0-9_])`, "i").test(path);
}

/** All parts of the split file that `path` belongs to, in order; none where it is not split. */
function partsOf(files: readonly ListFileEntry[], path: string): ListFileEntry[] {
  const match = /^(.*)-\d{5}-of-(\d{5})\.gguf$/.exec(path);
  if (!match) return [];
  const names = Array.from(
    { length: Number(match[2]) },
    (_, index) => `${match[1]}-${String(index + 1).padStart(5, "0")}-of-${match[2]}.gguf`,
  );
  return names.flatMap((name) => files.find((entry) => entry.path === name) ?? []);
}

/** The safetensors model of a folder: one file, or an index with its shards. */
function safetensors(files: readonly ListFileEntry[], folder: string): Choice | undefined {
  const inside = files.filter(({ path }) => folderOf(path) === folder);
  const named = (name: string) => inside.find(({ path }) => baseOf(path) === name);
  const single = named("model.safetensors");
  const index = named("model.safetensors.index.json");
  const shards = inside.filter(({ path }) => /-\d{5}-of-\d{5}\.safetensors$/.test(path));
  const weights = single ? [single] : index ? [index, ...shards] : [];
  return weights.length === 0
    ? undefined
    : { path: folder, files: [...companions(files, folder), ...weights] };
}

function companions(files: readonly ListFileEntry[], folder: string): ListFileEntry[] {
  return files.filter(({ path }) => folderOf(path) === folder && COMPANIONS.has(baseOf(path)));
}

const baseOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1);
const folderOf = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf("/")));
const isDots = (segment: string): boolean => /^\.+$/.test(segment);

/** Relative, and without segments that climb or stand still. */
function isInside(path: string): boolean {
  return (
    !/[\\\0:]/.test(path) &&
    path
      .replace(/\/$/, "")
      .split("/")
      .every((segment) => segment !== "" && !isDots(segment))
  );
}

function notFound(files: readonly ListFileEntry[], source: HubSource, what: string): MillraceError {
  const useful = files.map(({ path }) => path).filter((path) => /\.(gguf|safetensors)$/.test(path));
  return new MillraceError(
    "FILE_NOT_FOUND",
    `${source.name}: the repository has ${what}. ` +
      (useful.length > 0
        ? `It has: ${shown(useful)}.`
        : `None of its ${files.length} files is GGUF or safetensors.`),
    { source: source.name, files: useful.slice(0, 100) },
  );
}

function ambiguous(matches: readonly ListFileEntry[], source: HubSource, what: string): MillraceError {
  const paths = matches.map(({ path }) => path);
  return new MillraceError(
    "INVALID_ARGUMENT",
    `${source.name}: the repository has ${what}: ${shown(paths)}. Name one of them: hf:${source.repo}/FILE.`,
    { source: source.name, files: paths.slice(0, 100) },
  );
}

function shown(paths: readonly string[]): string {
  return paths.slice(0, 12).join(", ") + (paths.length > 12 ? ` and ${paths.length - 12} more` : "");
}
