import { MillraceError } from "../../errors.js";
import type { Region } from "../contract.js";
import { Allocator } from "./allocator.js";

const WASM_PAGE = 65536;
const MAX_PAGES = 65536;

/** The linear memory of a module and all its threads, cut into regions. It grows on demand, to 4 GiB at most. */
export class WasmMemory {
  readonly memory: WebAssembly.Memory;
  readonly #allocator: Allocator;
  /** Below this address memory may hold old contents. */
  #touched: number;

  /** `start`: first address that is not the module's own; a multiple of 64. */
  constructor(memory: WebAssembly.Memory, start: number) {
    this.memory = memory;
    this.#allocator = new Allocator(start, MAX_PAGES * WASM_PAGE);
    this.#touched = start;
  }

  get addressableBytes(): number {
    return this.#allocator.limit;
  }

  /** Throws OUT_OF_BUDGET past 4 GiB, or where the runtime refuses to grow. */
  allocate(byteLength: number): Region {
    const address = this.#allocator.take(byteLength);
    if (address === null) {
      throw new MillraceError(
        "OUT_OF_BUDGET",
        `WebAssembly reaches 4 GiB; ${byteLength} bytes were asked for and ${this.#allocator.longest} are left in ` +
          "one piece. Use the native backend, a smaller quantisation or a smaller cache.",
        { byteLength, leftBytes: this.#allocator.longest },
      );
    }
    const missing = this.#allocator.end - this.memory.buffer.byteLength;
    if (missing > 0) this.#grow(Math.ceil(missing / WASM_PAGE), address, byteLength);
    const used = Math.min(this.#touched, address + byteLength);
    if (used > address) new Uint8Array(this.memory.buffer, address, used - address).fill(0);
    this.#touched = Math.max(this.#touched, address + byteLength);
    return new WasmRegion(this.memory, address, byteLength, () => this.#allocator.give(address, byteLength));
  }

  #grow(pages: number, address: number, byteLength: number): void {
    try {
      this.memory.grow(pages);
    } catch (cause) {
      this.#allocator.give(address, byteLength);
      throw new MillraceError(
        "OUT_OF_BUDGET",
        `The runtime refused to grow WebAssembly memory by ${pages * WASM_PAGE} bytes.`,
        { byteLength },
        { cause },
      );
    }
  }
}

class WasmRegion implements Region {
  readonly #memory: WebAssembly.Memory;
  #release: (() => void) | null;

  constructor(
    memory: WebAssembly.Memory,
    readonly address: number,
    readonly byteLength: number,
    release: () => void,
  ) {
    this.#memory = memory;
    this.#release = release;
  }

  bytes(byteOffset = 0, length = this.byteLength - byteOffset): Uint8Array {
    return new Uint8Array(this.#buffer(byteOffset, length), this.address + byteOffset, length);
  }

  int32(byteOffset: number, length: number): Int32Array {
    return new Int32Array(this.#buffer(byteOffset, length * 4), this.address + byteOffset, length);
  }

  float32(byteOffset: number, length: number): Float32Array {
    return new Float32Array(this.#buffer(byteOffset, length * 4), this.address + byteOffset, length);
  }

  free(): void {
    this.#release?.();
    this.#release = null;
  }

  #buffer(byteOffset: number, byteLength: number): ArrayBuffer {
    if (!this.#release) throw new MillraceError("INVALID_ARGUMENT", "This region was freed.");
    if (!(byteOffset >= 0 && byteLength >= 0 && byteOffset + byteLength <= this.byteLength)) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Bytes ${byteOffset} to ${byteOffset + byteLength} lie outside a region of ${this.byteLength}.`,
        { byteOffset, byteLength, regionBytes: this.byteLength },
      );
    }
    return this.#memory.buffer;
  }
}
