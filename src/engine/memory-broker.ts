/**
 * One budget of bytes that several engines draw on. Each has a share that is its own whenever it wants it, lends what it does
 * not use, and keeps at least what one request needs. Pure bookkeeping: who carries messages to engines is the caller's.
 *
 * What is leased never exceeds the budget, since bytes are granted only after they have come back. Nobody waits for ever:
 * who holds less than its share and wants more has it owed by those who hold more than theirs, and an engine that owes
 * starts nothing for which it would need those bytes. Beyond its share an engine gets what others do not use: free bytes,
 * and spare ones of those who want none themselves.
 */
import { MillraceError } from "../errors.js";
import { formatBytes } from "./bytes.js";

/** What an engine shall give back, until it has or hears otherwise. */
export interface ReturnOrder {
  /** Bytes that it does not use at the moment. */
  readonly spare: number;
  /** Bytes that it shall do without as soon as it can. */
  readonly owed: number;
}

/** Where an engine hears of its lease. Must not call back. */
export interface LeaseListener {
  granted(bytes: number): void;
  order(order: ReturnOrder): void;
}

export interface LeaseTerms {
  /** Bytes that it has for good: weights, scratch. */
  readonly fixedBytes: number;
  /** Below this it lends nothing. At most its part of the budget, less what is fixed. */
  readonly leastBytes: number;
  /** It has no use for more. */
  readonly mostBytes: number;
}

export class MemoryBroker {
  readonly totalBytes: number;
  /** Of each engine: what is fixed, and its share of the rest. */
  readonly partBytes: number;
  readonly #numEngines: number;
  /** In the order in which they came, those that want more in the order in which they asked. */
  readonly #leases = new Set<Lease>();

  /** For so many engines, each of which has an equal part. */
  constructor(totalBytes: number, numEngines: number) {
    this.totalBytes = totalBytes;
    this.#numEngines = numEngines;
    this.partBytes = Math.floor(totalBytes / numEngines);
  }

  /** Bytes that nobody holds and nobody who is yet to come has a right to. May be below 0 while some who went are missed. */
  get freeBytes(): number {
    let free = this.totalBytes - this.partBytes * (this.#numEngines - this.#leases.size);
    for (const { terms, bytes } of this.#leases) free -= terms.fixedBytes + bytes;
    return free;
  }

  /** An engine comes; it begins with its share, or what there is of that. Throws OUT_OF_BUDGET where there is no part left. */
  join(terms: LeaseTerms, listener: LeaseListener): Lease {
    if (this.#leases.size === this.#numEngines || terms.fixedBytes + terms.leastBytes > this.partBytes) {
      throw new MillraceError(
        "OUT_OF_BUDGET",
        `A memory shared by ${this.#numEngines} models has no part of ${formatBytes(terms.fixedBytes + terms.leastBytes)} left.`,
        { has: this.partBytes, needs: terms.fixedBytes + terms.leastBytes },
      );
    }
    const shareBytes = Math.min(terms.mostBytes, this.partBytes - terms.fixedBytes);
    const lease: Lease = new Lease(terms, shareBytes, listener, {
      settle: () => this.#settle(),
      toBack: () => this.#leases.delete(lease) && this.#leases.add(lease),
      leave: () => {
        this.#leases.delete(lease);
        this.#settle();
      },
    });
    this.#leases.add(lease);
    lease.bytes = Math.max(0, Math.min(shareBytes, this.freeBytes));
    this.#settle();
    return lease;
  }

  /** Grants what is free, then says who shall give back what. */
  #settle(): void {
    const leases = [...this.#leases];
    let free = Math.max(0, this.freeBytes);
    const grant = (lease: Lease, most: number): void => {
      const bytes = Math.min(free, lease.wanted, most);
      if (bytes <= 0) return;
      free -= bytes;
      lease.grant(bytes);
    };
    for (const lease of leases) grant(lease, lease.shareBytes - lease.bytes);
    for (const lease of leases) grant(lease, lease.wanted);
    let [due, rest] = [0, 0];
    for (const { wanted, bytes, shareBytes } of leases) {
      const own = Math.max(0, Math.min(wanted, shareBytes - bytes));
      due += own;
      rest += wanted - own;
    }
    for (const lease of leases) {
      const { bytes, shareBytes, wanted, terms } = lease;
      const owed = Math.min(due, Math.max(0, bytes - shareBytes));
      due -= owed;
      // Who wants more itself would only ask for it again.
      const lends = wanted > 0 ? 0 : Math.max(0, bytes - owed - terms.leastBytes);
      const spare = Math.min(due + rest, lends);
      rest -= Math.max(0, spare - due);
      due = Math.max(0, due - spare);
      lease.order({ spare, owed });
    }
  }
}

/** Made by `MemoryBroker.join`: one engine's bytes. */
export class Lease {
  readonly terms: LeaseTerms;
  readonly shareBytes: number;
  /** That the engine holds, of the budget beside what is fixed. Changed by the broker alone. */
  bytes = 0;
  /** That it wants beyond those. */
  wanted = 0;
  readonly #listener: LeaseListener;
  readonly #broker: { settle(): void; toBack(): unknown; leave(): void };
  #order: ReturnOrder = { spare: 0, owed: 0 };

  constructor(
    terms: LeaseTerms,
    shareBytes: number,
    listener: LeaseListener,
    broker: { settle(): void; toBack(): unknown; leave(): void },
  ) {
    this.terms = terms;
    this.shareBytes = shareBytes;
    this.#listener = listener;
    this.#broker = broker;
  }

  /** The engine wants so many bytes more than it holds; 0 takes that back. */
  want(bytes: number): void {
    const wanted = Math.max(0, Math.min(bytes, this.terms.mostBytes - this.bytes));
    if (wanted === this.wanted) return;
    if (this.wanted === 0) this.#broker.toBack();
    this.wanted = wanted;
    this.#broker.settle();
  }

  /** The engine has given so many bytes back. */
  returned(bytes: number): void {
    this.bytes -= bytes;
    const owed = Math.min(this.#order.owed, bytes);
    this.#order = {
      owed: this.#order.owed - owed,
      spare: Math.max(0, this.#order.spare - (bytes - owed)),
    };
    this.#broker.settle();
  }

  /** The engine is gone, and its bytes are free. Idempotent. */
  leave(): void {
    this.#broker.leave();
  }

  /** Of the broker. */
  grant(bytes: number): void {
    this.bytes += bytes;
    this.wanted -= bytes;
    this.#listener.granted(bytes);
  }

  /** Of the broker. */
  order(order: ReturnOrder): void {
    if (order.spare === this.#order.spare && order.owed === this.#order.owed) return;
    this.#order = order;
    this.#listener.order(order);
  }
}
