/** An engine's end of a memory that several share (memory-broker.ts): which pages of its pool it may use at the moment. */
import type { KvPool } from "../cache/pool.js";
import type { LeaseTerms, ReturnOrder } from "./memory-broker.js";

/** What an engine tells the broker, and hears of it. */
export type LeaseToBroker =
  | ({ readonly event: "join" } & LeaseTerms)
  | { readonly event: "want"; readonly bytes: number }
  | { readonly event: "returned"; readonly bytes: number };
export type LeaseFromBroker =
  | { readonly event: "granted"; readonly bytes: number }
  | ({ readonly event: "order" } & ReturnOrder);

/** Carries both. */
export interface LeaseWire {
  send(message: LeaseToBroker): void;
  /** One listener, before the first `send`. */
  listen(listener: (message: LeaseFromBroker) => void): void;
}

export class PoolLease {
  readonly #pool: KvPool;
  readonly #wire: LeaseWire;
  readonly #leastPages: number;
  #order: ReturnOrder = { spare: 0, owed: 0 };
  #wanted = 0;
  /** Bytes that were granted and are no whole page yet. */
  #rest = 0;

  private constructor(pool: KvPool, wire: LeaseWire, leastPages: number) {
    this.#pool = pool;
    this.#wire = wire;
    this.#leastPages = leastPages;
  }

  /** Takes all of a fresh pool out of use, and resolves when the first pages of it are granted. */
  static join(pool: KvPool, wire: LeaseWire, terms: LeaseTerms): Promise<PoolLease> {
    pool.retire(pool.numPages);
    const lease = new PoolLease(pool, wire, Math.ceil(terms.leastBytes / pool.pageBytes));
    return new Promise((resolve) => {
      wire.listen((message) => {
        lease.#hear(message);
        if (message.event === "granted") resolve(lease);
      });
      wire.send({ event: "join", ...terms });
    });
  }

  /** Pages in use that belong to another engine: nothing new is to be started with so many. */
  get owedPages(): number {
    return this.#pagesOf(this.#order.owed);
  }

  /** The engine could go on with so many pages more. */
  want(pages: number): void {
    if (pages === this.#wanted) return;
    this.#wanted = pages;
    this.#wire.send({ event: "want", bytes: Math.max(0, pages * this.#pool.pageBytes - this.#rest) });
  }

  /** Gives back what it is asked for, of `unused` pages that nobody runs on or has been promised. Only between steps. */
  give(unused: number): void {
    const { spare, owed } = this.#order;
    const most = Math.min(unused, this.#pool.limit - this.#leastPages);
    const count = Math.min(this.#pagesOf(spare + owed), most);
    if (count <= 0) return;
    this.#pool.makeRoom({ taken: count, returned: 0 });
    const bytes = this.#pool.retire(count) * this.#pool.pageBytes;
    if (bytes === 0) return;
    const paid = Math.min(owed, bytes);
    this.#order = { owed: owed - paid, spare: Math.max(0, spare - (bytes - paid)) };
    this.#wire.send({ event: "returned", bytes });
  }

  #hear(message: LeaseFromBroker): void {
    if (message.event === "order") {
      const { spare, owed } = message;
      this.#order = { spare, owed };
      return;
    }
    this.#rest += message.bytes;
    const pages = Math.floor(this.#rest / this.#pool.pageBytes);
    this.#rest -= pages * this.#pool.pageBytes;
    this.#pool.issue(pages);
    this.#wanted = Math.max(0, this.#wanted - pages);
  }

  #pagesOf(bytes: number): number {
    return Math.ceil(bytes / this.#pool.pageBytes);
  }
}
