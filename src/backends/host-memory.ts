import { MillraceError } from "../errors.js";
import type { Region } from "./contract.js";

/**
 * Memory of backends that compute in JavaScript: each region an ArrayBuffer of its own, zeroed. Addresses are made
 * up, but distinct and 64-byte aligned, so that sums of address and offset behave as they do elsewhere.
 */
export class HostMemory {
  #nextAddress = 64;

  /** Throws OUT_OF_BUDGET where the runtime refuses, INVALID_ARGUMENT for a length that is not one. */
  allocate(byteLength: number): Region {
    if (!Number.isSafeInteger(byteLength) || byteLength < 0) {
      throw new MillraceError("INVALID_ARGUMENT", `Cannot allocate ${byteLength} bytes; a length is wanted.`);
    }
    const region = new HostRegion(allocateBuffer(byteLength), this.#nextAddress);
    this.#nextAddress += Math.ceil((byteLength + 64) / 64) * 64;
    return region;
  }
}

/** Copies bytes between any two regions; throws INVALID_ARGUMENT outside their bounds. */
export function copyRegion(from: Region, fromByte: number, to: Region, toByte: number, length: number): void {
  to.bytes(toByte, length).set(from.bytes(fromByte, length));
}

class HostRegion implements Region {
  readonly byteLength: number;
  #buffer: ArrayBuffer | null;

  constructor(
    buffer: ArrayBuffer,
    readonly address: number,
  ) {
    this.#buffer = buffer;
    this.byteLength = buffer.byteLength;
  }

  bytes(byteOffset = 0, length = this.byteLength - byteOffset): Uint8Array {
    return new Uint8Array(this.#live(byteOffset, length), byteOffset, length);
  }

  int32(byteOffset: number, length: number): Int32Array {
    return new Int32Array(this.#live(byteOffset, length * 4), byteOffset, length);
  }

  float32(byteOffset: number, length: number): Float32Array {
    return new Float32Array(this.#live(byteOffset, length * 4), byteOffset, length);
  }

  free(): void {
    this.#buffer = null;
  }

  #live(byteOffset: number, byteLength: number): ArrayBuffer {
    if (!this.#buffer) throw new MillraceError("INVALID_ARGUMENT", "This region was freed.");
    if (!(byteOffset >= 0 && byteLength >= 0 && byteOffset + byteLength <= this.byteLength)) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Bytes ${byteOffset} to ${byteOffset + byteLength} lie outside a region of ${this.byteLength}.`,
        { byteOffset, byteLength, regionBytes: this.byteLength },
      );
    }
    return this.#buffer;
  }
}

function allocateBuffer(byteLength: number): ArrayBuffer {
  try {
    return new ArrayBuffer(byteLength);
  } catch (cause) {
    throw new MillraceError(
      "OUT_OF_BUDGET",
      `The runtime refused ${byteLength} bytes; lower the cache budget or the batch.`,
      { byteLength },
      { cause },
    );
  }
}
