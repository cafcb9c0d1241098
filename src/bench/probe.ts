import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { MillraceError } from "../errors.js";

export interface ProbeRequest {
  readonly threads: number;
  /** Size of the memory that is read: far beyond every cache. */
  readonly mebibytes: number;
}

/** What the machine does at this moment with this many threads. */
export interface MachineSpeed {
  /** Bytes per second, read once from memory. */
  readonly bandwidth: number;
  /** 8-bit multiply-adds in registers, counted as two operations, per second. */
  readonly operations: number;
  /** f32 multiply-adds in registers, counted as two operations, per second. */
  readonly multiplyAdds: number;
  readonly description: string;
}

/** Measures the machine in a process of its own, again at every call. */
export class MachineProbe implements Disposable {
  readonly #child = fork(fileURLToPath(new URL("./probe-process.js", import.meta.url)), [], {
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  readonly #request: ProbeRequest;

  constructor(request: ProbeRequest) {
    this.#request = request;
  }

  measure(): Promise<MachineSpeed> {
    return new Promise((resolve, reject) => {
      const onExit = (code: number | null) =>
        reject(new MillraceError("INTERNAL", `The probe of the machine ended with code ${code}.`));
      this.#child.once("exit", onExit);
      this.#child.once("message", (speed) => {
        this.#child.off("exit", onExit);
        resolve(speed as MachineSpeed);
      });
      this.#child.send(this.#request);
    });
  }

  [Symbol.dispose](): void {
    this.#child.kill();
  }
}
