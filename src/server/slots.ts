/** Places for work that many want to do at once. */

/** A few places, which owners get in turn: the next free one goes to who has the fewest, and of those to who came first. */
export class Slots {
  #free: number;
  readonly #held = new Map<string, number>();
  readonly #waiting: { readonly owner: string; readonly give: () => void }[] = [];

  constructor(places: number) {
    this.#free = places;
  }

  /** Resolves with a place, which is free again when it is disposed of. Rejects with the signal's reason. */
  take(owner: string, signal: AbortSignal): Promise<Disposable> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const onAbort = () => {
        this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
        reject(signal.reason);
      };
      const waiter = {
        owner,
        give: () => {
          signal.removeEventListener("abort", onAbort);
          resolve(this.#place(owner));
        },
      };
      this.#waiting.push(waiter);
      signal.addEventListener("abort", onAbort, { once: true });
      this.#next();
    });
  }

  #place(owner: string): Disposable {
    this.#count(owner, 1);
    return {
      [Symbol.dispose]: () => {
        this.#count(owner, -1);
        this.#next();
      },
    };
  }

  #count(owner: string, change: 1 | -1): void {
    this.#free -= change;
    const held = (this.#held.get(owner) ?? 0) + change;
    if (held === 0) this.#held.delete(owner);
    else this.#held.set(owner, held);
  }

  #next(): void {
    while (this.#free > 0 && this.#waiting.length > 0) {
      const held = this.#waiting.map(({ owner }) => this.#held.get(owner) ?? 0);
      const [waiter] = this.#waiting.splice(held.indexOf(Math.min(...held)), 1);
      waiter!.give();
    }
  }
}
