import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { MillraceError } from "../../errors.js";
import { checkThreads, refuseBeyondFree } from "../compiled/limits.js";
import type { Kernels, Machine, PackJob } from "../compiled/machine.js";
import type { Region } from "../contract.js";
import type { Addon, PoolHandle } from "./addon.js";
import { NativeRegion } from "./region.js";

/** The kernels as machine code in this process, with a pool of threads of its own. */
export class NativeMachine implements Machine {
  readonly name = "native";
  readonly description: string;
  readonly numThreads: number;
  readonly addressableBytes = 2 ** 47;
  readonly kernels: Kernels;
  readonly #addon: Addon;
  readonly #pool: PoolHandle;
  #closed = false;

  /** Throws BACKEND_UNAVAILABLE where the compiled file cannot be loaded or its threads cannot be started. */
  constructor(path: string, threads: number = availableParallelism()) {
    checkThreads(threads);
    this.#addon = loadAddon(path);
    this.kernels = this.#addon;
    this.numThreads = threads;
    const pool = this.#addon.start(threads);
    if (!pool) {
      throw new MillraceError(
        "BACKEND_UNAVAILABLE",
        `The system refused ${threads} threads; ask for fewer.`,
        {
          backend: "native",
          threads,
        },
      );
    }
    this.#pool = pool;
    this.description = `native: ${this.#addon.simd}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  }

  allocate(byteLength: number): Region {
    refuseBeyondFree(byteLength);
    return new NativeRegion(this.#addon, byteLength);
  }

  pack({ type, rows, columns, rowBytes, panelBytes, from, to }: PackJob): void {
    this.#requireOpen();
    this.#addon.pack(this.#pool, type, rows, columns, rowBytes, panelBytes, from, to);
  }

  run(program: number): void {
    this.#requireOpen();
    this.#addon.run(this.#pool, program);
  }

  async dispose(): Promise<void> {
    this.#closed = true;
    this.#addon.stop(this.#pool);
  }

  #requireOpen(): void {
    if (this.#closed) throw new MillraceError("CLOSED", "The native backend was closed.");
  }
}

function loadAddon(path: string): Addon {
  try {
    return createRequire(import.meta.url)(path) as Addon;
  } catch (cause) {
    throw new MillraceError(
      "BACKEND_UNAVAILABLE",
      `The compiled kernels cannot be loaded: ${(cause as Error).message}. The wasm backend needs no compiler.`,
      { backend: "native", path },
      { cause },
    );
  }
}
