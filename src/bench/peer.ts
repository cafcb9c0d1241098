import { type ChildProcess, fork } from "node:child_process";
import { access } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { MillraceError } from "../errors.js";
import type { Arrivals, Contestant, Work } from "./contestant.js";
import type { StallArrivals, StallWork } from "./stall.js";

/** Peers that `bench --against` knows: a driver in bench/peers/ of this name, run as a process of its own. */
export const PEERS = ["node-llama-cpp"] as const;
export type PeerName = (typeof PEERS)[number];

export interface PeerOptions {
  readonly path: string;
  readonly threads: number;
  /** Tokens of each sequence. */
  readonly contextSize: number;
  readonly sequences: number;
}

/** What a driver is told, and what it answers. */
export type ToPeer =
  | { readonly type: "open"; readonly options: PeerOptions }
  | { readonly type: "run"; readonly work: Work }
  | { readonly type: "stall"; readonly work: StallWork };
export type FromPeer =
  | { readonly type: "ready"; readonly description: string }
  | { readonly type: "arrivals"; readonly arrivals: Arrivals }
  | { readonly type: "stalled"; readonly arrivals: StallArrivals }
  | { readonly type: "failed"; readonly message: string };

export interface Peer extends Contestant {
  /** Throws BACKEND_UNAVAILABLE where a stream is full before the late prompt is through. */
  stall(work: StallWork): Promise<StallArrivals>;
}

/** Starts the peer's driver and loads the model in it. Throws BACKEND_UNAVAILABLE where the peer is not installed. */
export async function startPeer(name: PeerName, options: PeerOptions): Promise<Peer> {
  const folder = new URL("../../bench/", import.meta.url);
  const driver = fileURLToPath(new URL(`peers/${name}.js`, folder));
  try {
    await access(driver);
    await access(fileURLToPath(new URL(`node_modules/${name}/package.json`, folder)));
  } catch {
    throw new MillraceError(
      "BACKEND_UNAVAILABLE",
      `The peer ${name} is not installed; in a checkout, run: npm --prefix bench install`,
      { peer: name },
    );
  }
  const child = fork(driver, [], { stdio: ["ignore", "ignore", "inherit", "ipc"] });
  try {
    const ready = await ask(child, name, { type: "open", options });
    if (ready.type !== "ready") throw failed(name, ready);
    return {
      name,
      description: ready.description,
      async run(work) {
        const answer = await ask(child, name, { type: "run", work });
        if (answer.type !== "arrivals") throw failed(name, answer);
        return answer.arrivals;
      },
      async stall(work) {
        const answer = await ask(child, name, { type: "stall", work });
        if (answer.type !== "stalled") throw failed(name, answer);
        return answer.arrivals;
      },
      async [Symbol.asyncDispose]() {
        child.kill();
      },
    };
  } catch (error) {
    child.kill();
    throw error;
  }
}

function ask(child: ChildProcess, name: string, message: ToPeer): Promise<FromPeer> {
  return new Promise((resolve, reject) => {
    const onExit = (code: number | null) =>
      reject(
        new MillraceError("BACKEND_UNAVAILABLE", `The peer ${name} ended with code ${code}.`, { peer: name }),
      );
    child.once("exit", onExit);
    child.once("message", (answer) => {
      child.off("exit", onExit);
      resolve(answer as FromPeer);
    });
    child.send(message);
  });
}

function failed(name: string, answer: FromPeer): MillraceError {
  const why = answer.type === "failed" ? answer.message : `unexpected answer ${answer.type}`;
  return new MillraceError("BACKEND_UNAVAILABLE", `The peer ${name} failed: ${why}`, { peer: name });
}
