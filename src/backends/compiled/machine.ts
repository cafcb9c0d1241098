import type { Region } from "../contract.js";

/** The kernels' own answers about their layouts; `type` is a weight type's number (abi.ts). */
export interface Kernels {
  /** Bytes of 16 packed rows; 0 where no kernel takes rows of this type and length. */
  panelBytes(type: number, columns: number): number;
  /** Bytes of one row of quantised activations. */
  quantizedRowBytes(columns: number): number;
  /** Whether matrices of this type are multiplied with quantised activations. */
  wantsQuantized(type: number): boolean;
}

/** Rows as a file stores them, to be packed into panels of 16. Addresses are those of regions. */
export interface PackJob {
  readonly type: number;
  readonly rows: number;
  readonly columns: number;
  /** Bytes of one stored row. */
  readonly rowBytes: number;
  readonly panelBytes: number;
  readonly from: number;
  readonly to: number;
}

/**
 * What a target has to offer so that `CompiledBackend` can run the C kernels on it: memory that kernels and host
 * both see, and a team of threads, the calling one among them.
 */
export interface Machine {
  readonly name: "native" | "wasm";
  /** One line for people. */
  readonly description: string;
  readonly numThreads: number;
  /** Bytes that the machine's addresses can reach in all. */
  readonly addressableBytes: number;
  readonly kernels: Kernels;

  /** Zeroed, 64-byte aligned. Throws OUT_OF_BUDGET where it is refused. */
  allocate(byteLength: number): Region;
  /** Packs by all threads; returns when done. */
  pack(job: PackJob): void;
  /** Runs the Program struct at this address by all threads; returns when done. Throws WORKER_CRASHED. */
  run(program: number): void;
  /** Ends the threads. Idempotent; `run` and `pack` throw CLOSED from then on. */
  dispose(): Promise<void>;
}
