/**
 * A disk that has little room left, for tests that put it between the code and the file system:
 *
 *   vi.mock("node:fs", async (original) => smallDisk(await original()));
 *   vi.mock("node:fs/promises", async (original) => smallDiskPromises(await original()));
 *
 * As on a real one, a write that does not fit writes what does, and the next one fails with ENOSPC.
 */
import type * as fs from "node:fs";
import type * as promises from "node:fs/promises";
import { promisify } from "node:util";

export const disk = {
  /** Bytes that fit; what is deleted does not come back. */
  left: Number.POSITIVE_INFINITY,
  /** Whether files can have a second name: not across file systems. */
  links: true,
};

/** Bytes of a write that fit. */
function take(length: number, call: string): number {
  if (length > 0 && disk.left <= 0) throw failure("ENOSPC", call);
  const taken = Math.min(length, disk.left);
  disk.left -= taken;
  return taken;
}

const failure = (code: string, syscall: string): Error =>
  Object.assign(new Error(`${code}: refused by the test, ${syscall}`), { code, syscall });

/** For `node:fs`: what the tier's store writes with. */
export function smallDisk(real: typeof fs): object {
  const realWrite = promisify(real.write);
  const [realLink, realCopy] = [promisify(real.link), promisify(real.copyFile)];
  // Only the promised forms are asked for.
  const promised = (act: unknown) => Object.assign(() => {}, { [promisify.custom]: act });
  return {
    ...real,
    writeSync: (fd: number, bytes: Uint8Array, offset: number, length: number, at: number) =>
      real.writeSync(fd, bytes, offset, take(length, "write"), at),
    write: promised(async (fd: number, bytes: Uint8Array, offset: number, length: number, at: number) =>
      realWrite(fd, bytes, offset, take(length, "write"), at),
    ),
    link: promised(async (from: string, to: string) => {
      if (!disk.links) throw failure("EXDEV", "link");
      await realLink(from, to);
    }),
    copyFile: promised(async (from: string, to: string, mode: number) => {
      const { size } = real.statSync(from);
      const taken = take(size, "copyfile");
      await realCopy(from, to, mode);
      if (taken < size) throw failure("ENOSPC", "copyfile");
    }),
  };
}

/** For `node:fs/promises`: what whole files are written with. */
export function smallDiskPromises(real: typeof promises): object {
  return {
    ...real,
    open: async (...parameters: Parameters<typeof real.open>) => {
      const handle = await real.open(...parameters);
      const write = handle.write.bind(handle);
      return Object.assign(handle, {
        appendFile: async (text: string) => {
          const bytes = Buffer.from(text);
          const taken = take(bytes.length, "write");
          await write(bytes, 0, taken, null);
          if (taken < bytes.length) throw failure("ENOSPC", "write");
        },
        write: async (bytes: Uint8Array, offset: number, length: number, at: number) =>
          write(bytes, offset, take(length, "write"), at),
      });
    },
  };
}
