/** What kernels/native/addon.c exports. Addresses and byte counts are numbers below 2^53. */
declare const mapping: unique symbol;
declare const pool: unique symbol;

/** An external; owns mapped memory. */
export type MappingHandle = { readonly [mapping]: true };
/** An external; owns threads. */
export type PoolHandle = { readonly [pool]: true };

export interface Addon {
  /** Instruction set that the kernels were compiled for. */
  readonly simd: string;
  /** `bytes` is a multiple of the page size; memory is zeroed. Null where the system refuses. */
  allocate(bytes: number): MappingHandle | null;
  address(handle: MappingHandle): number;
  /** Null where the runtime forbids buffers over memory that is not its own. */
  window(handle: MappingHandle, byteOffset: number, byteLength: number): ArrayBuffer | null;
  /** Detaches the windows and unmaps the memory. */
  release(handle: MappingHandle, windows: readonly ArrayBuffer[]): void;
  /** Gives whole pages of the system back to it; they read as zero from then on. Does nothing but on Linux. */
  discard(handle: MappingHandle, byteOffset: number, byteLength: number): void;
  start(threads: number): PoolHandle | null;
  /** Ends the threads; idempotent. */
  stop(pool: PoolHandle): void;
  run(pool: PoolHandle, program: number): void;
  pack(
    pool: PoolHandle,
    type: number,
    rows: number,
    columns: number,
    rowBytes: number,
    panelBytes: number,
    from: number,
    to: number,
  ): void;
  panelBytes(type: number, columns: number): number;
  quantizedRowBytes(columns: number): number;
  wantsQuantized(type: number): boolean;
}
