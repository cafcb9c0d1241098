import { MillraceError } from "../../errors.js";
import type { Region } from "../contract.js";
import type { Addon, MappingHandle } from "./addon.js";

const PAGE = 4096;
/**
 * JavaScript sees a region through buffers of at most 2 GiB, which start at every whole GiB: some runtimes allow no
 * larger ones. A view may therefore span 1 GiB.
 */
const WINDOW_STEP = 2 ** 30;

/** Mapped memory of the addon. Views are detached by `free`: they turn empty, and never dangle. */
export class NativeRegion implements Region {
  readonly address: number;
  readonly #addon: Addon;
  #handle: MappingHandle | null;
  readonly #windows: (ArrayBuffer | undefined)[] = [];

  /** Throws OUT_OF_BUDGET where the system refuses. */
  constructor(
    addon: Addon,
    readonly byteLength: number,
  ) {
    this.#addon = addon;
    this.#handle = addon.allocate(Math.max(1, Math.ceil(byteLength / PAGE)) * PAGE);
    if (!this.#handle) {
      throw new MillraceError(
        "OUT_OF_BUDGET",
        `The system refused ${byteLength} bytes; lower the cache budget or the batch.`,
        { byteLength },
      );
    }
    this.address = addon.address(this.#handle);
  }

  bytes(byteOffset = 0, length = this.byteLength - byteOffset): Uint8Array {
    return this.#view(byteOffset, length, 1, (buffer, at) => new Uint8Array(buffer, at, length));
  }

  int32(byteOffset: number, length: number): Int32Array {
    return this.#view(byteOffset, length, 4, (buffer, at) => new Int32Array(buffer, at, length));
  }

  float32(byteOffset: number, length: number): Float32Array {
    return this.#view(byteOffset, length, 4, (buffer, at) => new Float32Array(buffer, at, length));
  }

  /** Other systems than Linux keep what was written. */
  readonly discard =
    process.platform === "linux"
      ? {
          unit: PAGE,
          pages: (byteOffset: number, byteLength: number) => {
            if (this.#handle) this.#addon.discard(this.#handle, byteOffset, byteLength);
          },
        }
      : undefined;

  free(): void {
    if (!this.#handle) return;
    this.#addon.release(
      this.#handle,
      this.#windows.filter((window) => window !== undefined),
    );
    this.#windows.length = 0;
    this.#handle = null;
  }

  #view<T>(
    byteOffset: number,
    length: number,
    size: number,
    make: (buffer: ArrayBuffer, at: number) => T,
  ): T {
    const end = byteOffset + length * size;
    if (!this.#handle) throw new MillraceError("INVALID_ARGUMENT", "This region was freed.");
    if (!(byteOffset >= 0 && length >= 0 && end <= this.byteLength)) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Bytes ${byteOffset} to ${end} lie outside a region of ${this.byteLength}.`,
        { byteOffset, byteLength: length * size, regionBytes: this.byteLength },
      );
    }
    const index = Math.min(
      Math.floor(byteOffset / WINDOW_STEP),
      Math.max(0, Math.ceil(this.byteLength / WINDOW_STEP) - 1),
    );
    const start = index * WINDOW_STEP;
    const buffer = this.#window(index, start);
    if (end > start + buffer.byteLength) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `A view of ${length * size} bytes is too long; take parts of 1 GiB.`,
      );
    }
    return make(buffer, byteOffset - start);
  }

  #window(index: number, start: number): ArrayBuffer {
    const known = this.#windows[index];
    if (known) return known;
    const length = Math.min(2 * WINDOW_STEP, this.byteLength - start);
    const window = this.#addon.window(this.#handle!, start, length);
    if (!window) {
      throw new MillraceError(
        "BACKEND_UNAVAILABLE",
        "This runtime forbids buffers over native memory; use the wasm backend.",
        { backend: "native" },
      );
    }
    this.#windows[index] = window;
    return window;
  }
}
