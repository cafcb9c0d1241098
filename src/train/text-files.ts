/** Text files, read piece by piece so that a file of any size can be tokenised. */
import { MillraceError } from "../errors.js";
import { openFile, readFully } from "../formats/file.js";

const CHUNK = 2 ** 22;

/**
 * The text of the file at `path` in pieces that joined are the file; every piece but the first begins with a space
 * between two letters, where no tokenizer joins what stands before and behind. A byte order mark is left out.
 * Throws FILE_NOT_FOUND, BAD_FORMAT for a file that is empty or not UTF-8, naming the place.
 */
export async function* readTextPieces(path: string): AsyncGenerator<string> {
  const file = await openFile(path);
  try {
    if (file.size === 0) {
      throw new MillraceError("BAD_FORMAT", `${path} is empty; expected text.`, { path });
    }
    const decoder = new TextDecoder("utf-8", { fatal: true });
    const buffer = new Uint8Array(Math.min(CHUNK, file.size));
    let kept = "";
    for (let at = 0; at < file.size; at += buffer.length) {
      const chunk = buffer.subarray(0, Math.min(buffer.length, file.size - at));
      await readFully(file, at, chunk);
      const last = at + chunk.length === file.size;
      kept += decode(decoder, chunk, !last, path, at);
      if (last) break;
      const cut = lastCut(kept);
      if (cut > 0) yield kept.slice(0, cut);
      kept = kept.slice(cut);
    }
    if (kept !== "") yield kept;
  } finally {
    await file.handle.close();
  }
}

/** Where a space last stands between letters; 0 where nowhere. */
function lastCut(text: string): number {
  for (let at = text.lastIndexOf(" "); at > 0; at = text.lastIndexOf(" ", at - 1)) {
    if (/^[A-Za-z] [A-Za-z]$/.test(text.slice(at - 1, at + 2))) return at;
  }
  return 0;
}

function decode(decoder: TextDecoder, chunk: Uint8Array, stream: boolean, path: string, at: number): string {
  try {
    return decoder.decode(chunk, { stream });
  } catch (error) {
    throw new MillraceError(
      "BAD_FORMAT",
      `${path} is not UTF-8 text: what stands at byte ${at + validLength(chunk)} is something else. ` +
        "Convert it to UTF-8, or leave it out.",
      { path, at: at + validLength(chunk) },
      { cause: error },
    );
  }
}

/** Bytes at the beginning of `chunk` that are UTF-8, where a character may have begun before it and end in it. */
function validLength(chunk: Uint8Array): number {
  const start = chunk.subarray(0, 3).findIndex((byte) => byte >> 6 !== 0b10);
  let [good, bad] = [Math.max(0, start), chunk.length + 1];
  while (bad - good > 1) {
    const middle = (good + bad) >> 1;
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(chunk.subarray(Math.max(0, start), middle), {
        stream: true,
      });
      good = middle;
    } catch {
      bad = middle;
    }
  }
  // Back to where a character begins that does not end.
  for (let back = 1; back <= Math.min(3, good); back++) {
    const byte = chunk[good - back]!;
    if (byte >> 6 === 0b10) continue;
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back ? good - back : good;
  }
  return good;
}
