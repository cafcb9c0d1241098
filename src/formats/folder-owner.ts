/**
 * Who uses a folder alone: whoever listens on a socket in it. The system ends that with its thread or process, however
 * they end, so no lock outlives its owner.
 */
import { createHash } from "node:crypto";
import { rmSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Bytes of a socket's path that every system takes. */
const MOST_PATH_BYTES = 100;

/** The folder is the caller's until `release`, or the end of its thread. Null where somebody else has it. */
export async function ownFolder(folder: string): Promise<{ release(): Promise<void> } | null> {
  const path = socketPath(folder);
  const server = (await listenOn(path)) ?? ((await answers(path)) ? null : await takeOver(path));
  if (!server) return null;
  server.unref();
  return {
    release: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
      }),
  };
}

function socketPath(folder: string): string {
  const path = join(folder, "owner");
  const name = `millrace-${createHash("sha256").update(folder).digest("hex").slice(0, 24)}`;
  if (process.platform === "win32") return `\\\\.\\pipe\\${name}`;
  return Buffer.byteLength(path) <= MOST_PATH_BYTES ? path : join(tmpdir(), name);
}

/** Its owner ended without a word. */
function takeOver(path: string): Promise<Server | null> {
  rmSync(path, { force: true });
  return listenOn(path);
}

/** Null where the path is taken. */
function listenOn(path: string): Promise<Server | null> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once("error", (error: NodeJS.ErrnoException) =>
      error.code === "EADDRINUSE" ? resolve(null) : reject(error),
    );
    server.listen(path, () => resolve(server));
  });
}

/** Whether somebody listens. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const say = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.once("connect", () => say(true));
    socket.once("error", () => say(false));
  });
}
