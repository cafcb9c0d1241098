/**
 * What is under way, by a number that is used once: entries come and go for as long as the process lives.
 *
 * A Map would do, but for its garbage. Each table that a Map gives up points to the one that took its place, so that once
 * one of them has outlived two collections of the young generation, all later ones follow it into the old one, with what
 * they held: memory that grows until all of the heap is collected. The tables behind an object's numbered elements have
 * no such pointers.
 */
export class Passing<T> {
  #entries = none<T>();

  get(id: number): T | undefined {
    return this.#entries[id];
  }

  set(id: number, value: T): void {
    this.#entries[id] = value;
  }

  /** False where it was not there. */
  delete(id: number): boolean {
    return id in this.#entries && delete this.#entries[id];
  }

  /** A copy, in the order of the numbers. */
  values(): T[] {
    return Object.values(this.#entries);
  }

  clear(): void {
    this.#entries = none();
  }
}

const none = <T>(): Record<number, T> => Object.create(null) as Record<number, T>;
