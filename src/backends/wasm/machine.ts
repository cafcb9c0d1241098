import { MillraceError } from "../../errors.js";
import { align } from "../compiled/abi.js";
import { refuseBeyondFree } from "../compiled/limits.js";
import type { Kernels, Machine, PackJob } from "../compiled/machine.js";
import type { Region } from "../contract.js";
import { WasmMemory } from "./memory.js";
import { BOARD, JOB, type KernelExports, packShare, STACK_BYTES, Team } from "./team.js";

/** Enough for the module's own data and stack; memory grows from here. */
const INITIAL_PAGES = 64;
const MAX_PAGES = 65536;

/** The kernels as WebAssembly, on the calling thread and, with shared memory, on workers beside it. */
export class WasmMachine implements Machine {
  readonly name = "wasm";
  readonly description: string;
  readonly kernels: Kernels;
  readonly #exports: KernelExports;
  readonly #memory: WasmMemory;
  readonly #team: Team | null;
  #closed = false;

  private constructor(
    kernels: KernelExports,
    memory: WasmMemory,
    team: Team | null,
    instructionSet: string,
    readonly numThreads: number,
  ) {
    this.#exports = kernels;
    this.#memory = memory;
    this.#team = team;
    this.description = `wasm: ${instructionSet}, ${numThreads} ${numThreads === 1 ? "thread" : "threads"}`;
    this.kernels = {
      panelBytes: (type, columns) => Number(kernels.mill_panel_bytes(type, columns)),
      quantizedRowBytes: (columns) => Number(kernels.mill_quantized_row_bytes(columns)),
      wantsQuantized: (type) => kernels.mill_wants_quantized(type) !== 0,
    };
  }

  /** `module` is a build for shared memory exactly where `threads` is more than 1. */
  static async create(
    module: WebAssembly.Module,
    instructionSet: string,
    threads: number,
  ): Promise<WasmMachine> {
    const memory = new WebAssembly.Memory({
      initial: INITIAL_PAGES,
      maximum: MAX_PAGES,
      shared: threads > 1,
    });
    const instance = await WebAssembly.instantiate(module, { env: { memory } });
    const kernels = instance.exports as unknown as KernelExports;
    const regions = new WasmMemory(memory, align(kernels.__heap_base.value as number));
    let team: Team | null = null;
    if (threads > 1) {
      const board = regions.allocate(BOARD.words * 4).address;
      const stacks = Array.from(
        { length: threads - 1 },
        () => regions.allocate(STACK_BYTES).address + STACK_BYTES,
      );
      team = await Team.start(module, memory, board, stacks);
    }
    return new WasmMachine(kernels, regions, team, instructionSet, threads);
  }

  get addressableBytes(): number {
    return this.#memory.addressableBytes;
  }

  allocate(byteLength: number): Region {
    refuseBeyondFree(byteLength);
    return this.#memory.allocate(byteLength);
  }

  pack({ type, rows, columns, rowBytes, panelBytes, from, to }: PackJob): void {
    const args = [type, rows, columns, rowBytes, panelBytes, from, to] as const;
    this.#do(JOB.pack, args, () => packShare(this.#exports, args, 0, this.numThreads));
  }

  run(program: number): void {
    this.#do(JOB.run, [program], () => this.#exports.mill_run(BigInt(program), 0));
  }

  async dispose(): Promise<void> {
    this.#closed = true;
    await this.#team?.dispose();
  }

  #do(job: (typeof JOB)[keyof typeof JOB], args: readonly number[], own: () => void): void {
    if (this.#closed) throw new MillraceError("CLOSED", "The wasm backend was closed.");
    if (this.#team) this.#team.do(job, args, own);
    else own();
  }
}
