/** A budget that several models share: see `SharedMemory`. */
import { parseBytes } from "./bytes.js";
import { type Lease, MemoryBroker } from "./memory-broker.js";
import { wholeNumber } from "./options.js";
import type { LeaseFromBroker, LeaseToBroker } from "./pool-lease.js";

/**
 * One hard budget for several models, given to each as `open`'s `memory`. Each has an equal part, of which weights and scratch
 * come first. The pages of the caches are lent: a model that needs more gets what others do not use, and gives it back when
 * they do, as soon as the requests that run on it have ended; nobody goes below what one request needs.
 *
 * Bytes go from one model to another only where the backend can return them to the system (native); others lend what they have
 * never touched.
 */
export class SharedMemory {
  readonly #broker: MemoryBroker;

  /**
   * @param memory Bytes, or "12 GiB", for weights, caches and scratch of all.
   * @param models How many there will be. Throws INVALID_ARGUMENT.
   */
  constructor(memory: number | string, models: number) {
    wholeNumber("models", models, 1);
    this.#broker = new MemoryBroker(parseBytes(memory), models);
  }

  /** Bytes in all. */
  get totalBytes(): number {
    return this.#broker.totalBytes;
  }

  /** Bytes of each model's part. */
  get partBytes(): number {
    return this.#broker.partBytes;
  }

  /** Of `open`: takes what an engine says about its lease; `tell` says things to it, and `leave` is for its end. */
  admit(tell: (message: LeaseFromBroker) => void): { hear(message: LeaseToBroker): void; leave(): void } {
    let lease: Lease | null = null;
    return {
      hear: (message) => {
        switch (message.event) {
          case "join": {
            const { event: _, ...terms } = message;
            lease = this.#broker.join(terms, {
              granted: (bytes) => tell({ event: "granted", bytes }),
              order: (order) => tell({ event: "order", ...order }),
            });
            tell({ event: "granted", bytes: lease.bytes });
            break;
          }
          case "want":
            lease?.want(message.bytes);
            break;
          case "returned":
            lease?.returned(message.bytes);
            break;
          default:
            message satisfies never;
        }
      },
      leave: () => lease?.leave(),
    };
  }
}
