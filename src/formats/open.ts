/** Opens a checkpoint by what it is, not by what its name says. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { MillraceError } from "../errors.js";
import type { Checkpoint } from "./checkpoint.js";
import { fileError, openFile, readFully } from "./file.js";
import { openGguf } from "./gguf.js";
import { openSafetensors } from "./safetensors.js";

/** First bytes of files that people have beside the ones they meant, and what to do about them. */
const FOREIGN: readonly { readonly magic: string; readonly name: string; readonly hint: string }[] = [
  {
    magic: "PK\x03\x04",
    name: "a zip archive, most likely PyTorch weights",
    hint: "Take the model's safetensors or GGUF files",
  },
  { magic: "\x80\x02", name: "a Python pickle", hint: "Take the model's safetensors or GGUF files" },
  { magic: "\x80\x04", name: "a Python pickle", hint: "Take the model's safetensors or GGUF files" },
  { magic: "lmgg", name: "an old GGML file", hint: "Convert the model to GGUF" },
  { magic: "fmgg", name: "an old GGML file (GGMF)", hint: "Convert the model to GGUF" },
  { magic: "tjgg", name: "an old GGML file (GGJT)", hint: "Convert the model to GGUF" },
  { magic: "algg", name: "an old GGML adapter (GGLA)", hint: "Convert the adapter to GGUF" },
  { magic: "\x89HDF", name: "an HDF5 file", hint: "Take the model's safetensors or GGUF files" },
  { magic: "\x93NUMPY", name: "a NumPy array", hint: "Take the model's safetensors or GGUF files" },
  { magic: "\x1f\x8b", name: "a gzip archive", hint: "Unpack it first" },
  {
    magic: "version https://git-lfs",
    name: "a Git LFS pointer, not the file itself",
    hint: "Fetch it with `git lfs pull`",
  },
  { magic: "<!DOCTYPE", name: "a web page", hint: "Fetch the file itself, not the page about it" },
  { magic: "<html", name: "a web page", hint: "Fetch the file itself, not the page about it" },
];

const HEAD = 32;

/**
 * Opens a GGUF file, a safetensors file, a `model.safetensors.index.json`, or a folder that holds one of them.
 * Throws FILE_NOT_FOUND, BAD_FORMAT, UNSUPPORTED_FORMAT (saying what the file is), and all that `openGguf` and
 * `openSafetensors` throw.
 */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  const stats = await stat(path).catch((error: unknown) => {
    throw fileError(path, error);
  });
  if (stats.isDirectory()) return openFolder(path);

  const head = await readHead(path);
  if (head.startsWith("GGUF")) return openGguf(path);
  const foreign = FOREIGN.find(({ magic }) => head.startsWith(magic));
  if (foreign) {
    throw new MillraceError(
      "UNSUPPORTED_FORMAT",
      `${path} is ${foreign.name}; expected GGUF or safetensors. ${foreign.hint}.`,
      { path },
    );
  }
  // Safetensors has no magic: a length whose upper bytes are zero, then the brace of a JSON object.
  if (
    head.slice(4, 9) === "\0\0\0\0{" ||
    path.endsWith(".safetensors") ||
    path.endsWith(".safetensors.index.json")
  ) {
    return openSafetensors(path);
  }
  if (path.endsWith(".gguf")) return openGguf(path);
  throw new MillraceError(
    "UNSUPPORTED_FORMAT",
    `${path} starts with ${JSON.stringify(head.slice(0, 8))}; expected GGUF ("GGUF") or safetensors.`,
    { path },
  );
}

async function openFolder(path: string): Promise<Checkpoint> {
  const names = (await readdir(path)).toSorted();
  if (names.some((name) => name.endsWith(".safetensors") || name.endsWith(".safetensors.index.json"))) {
    return openSafetensors(path);
  }
  const gguf = names.filter((name) => /\.gguf$/.test(name) && !/-(?!00001)\d{5}-of-\d{5}\.gguf$/.test(name));
  if (gguf.length === 1) return openGguf(join(path, gguf[0]!));
  if (gguf.length > 1) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `${path} holds ${gguf.length} GGUF models: ${gguf.slice(0, 10).join(", ")}. Name one of them.`,
      { path, files: gguf.slice(0, 100) },
    );
  }
  const torch = names.find((name) => /^(pytorch_model.*|consolidated.*)\.(bin|pth)$/.test(name));
  throw new MillraceError(
    torch ? "UNSUPPORTED_FORMAT" : "FILE_NOT_FOUND",
    torch
      ? `${path} holds PyTorch weights (${torch}); expected safetensors or GGUF. Take the model's safetensors files.`
      : `${path} is a folder with neither .safetensors nor .gguf files among its ${names.length} entries.`,
    { path },
  );
}

/** The first bytes, one character each. */
async function readHead(path: string): Promise<string> {
  const file = await openFile(path);
  try {
    const bytes = Buffer.alloc(Math.min(HEAD, file.size));
    await readFully(file, 0, bytes);
    return bytes.toString("latin1");
  } finally {
    await file.handle.close();
  }
}
