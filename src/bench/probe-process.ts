/**
 * A process that measures what the machine can do, beside the bench: so that its memory is not counted as ours.
 * Message in: { mebibytes, threads } once, then anything for one measurement each; message out: `MachineSpeed`.
 */
import { BARRIER_WORDS, OP, OP_RECORD, PROGRAM, putAddress } from "../backends/compiled/abi.js";
import type { Machine } from "../backends/compiled/machine.js";
import { createNativeMachine } from "../backends/native/index.js";
import { createWasmMachine } from "../backends/wasm/index.js";
import type { MachineSpeed, ProbeRequest } from "./probe.js";

/** Long enough for the clock to settle where wide multiplications hold it. */
const DOT_MILLIONS = 1500;
const OPERATIONS_PER_DOT = 128;
const MULTIPLY_ADD_MILLIONS = 800;
const OPERATIONS_PER_MULTIPLY_ADD = 32;

async function machine(threads: number): Promise<Machine> {
  try {
    return await createNativeMachine({ threads });
  } catch {
    return createWasmMachine({ threads });
  }
}

async function main(request: ProbeRequest): Promise<() => MachineSpeed> {
  const target = await machine(request.threads);
  const mebibytes = Math.min(request.mebibytes, target.name === "wasm" ? 1024 : request.mebibytes);
  const region = target.allocate(mebibytes * 2 ** 20);
  region.bytes().fill(1);
  const sink = target.allocate(request.threads * 64);
  const control = target.allocate(1024 + BARRIER_WORDS * 4);
  const counters = 512;
  const operation = 256;
  const program = control.int32(0, PROGRAM.bytes / 4);
  putAddress(program, PROGRAM.ops / 4, control.address + operation);
  putAddress(program, PROGRAM.step / 4, control.address + 768);
  putAddress(program, PROGRAM.counters / 4, control.address + counters);
  putAddress(program, PROGRAM.barrier / 4, control.address + 1024);
  program[PROGRAM.numOps / 4] = 1;
  program[PROGRAM.threads / 4] = request.threads;
  const op = control.int32(operation, OP_RECORD.bytes / 4);
  op[OP_RECORD.code / 4] = OP.PROBE;
  putAddress(op, OP_RECORD.p / 4, region.address);
  putAddress(op, OP_RECORD.p / 4 + 2, sink.address);
  const run = (what: number, amount: number): number => {
    op[OP_RECORD.i / 4] = what;
    op[OP_RECORD.i / 4 + 1] = amount;
    control.int32(counters, 1)[0] = 0;
    const start = performance.now();
    target.run(control.address);
    const seconds = (performance.now() - start) / 1000;
    // Also keeps both regions alive: nothing else refers to them but their addresses.
    if (sink.int32(0, 1)[0] === region.byteLength) throw new Error("The probe cannot sum to this.");
    return seconds;
  };
  run(0, mebibytes);
  return () => ({
    bandwidth: (mebibytes * 2 ** 20) / run(0, mebibytes),
    operations: (DOT_MILLIONS * 1e6 * OPERATIONS_PER_DOT) / run(1, DOT_MILLIONS),
    multiplyAdds: (MULTIPLY_ADD_MILLIONS * 1e6 * OPERATIONS_PER_MULTIPLY_ADD) / run(2, MULTIPLY_ADD_MILLIONS),
    description: target.description,
  });
}

let measure: (() => MachineSpeed) | null = null;
process.on("message", async (request: ProbeRequest) => {
  measure ??= await main(request);
  process.send?.(measure());
});
process.on("disconnect", () => process.exit(0));
