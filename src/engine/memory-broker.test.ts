import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { type Lease, MemoryBroker, type ReturnOrder } from "./memory-broker.js";

/** An engine that runs requests of some bytes each, as the real one does: only what fits when it starts. */
class FakeEngine {
  lease!: Lease;
  /** As the engine knows them. */
  bytes = 0;
  order: ReturnOrder = { spare: 0, owed: 0 };
  readonly running: number[] = [];
  readonly waiting: number[] = [];

  join(broker: MemoryBroker, fixedBytes: number, leastBytes: number, mostBytes = 1e9): void {
    this.lease = broker.join(
      { fixedBytes, leastBytes, mostBytes },
      {
        granted: (bytes) => {
          this.bytes += bytes;
        },
        order: (order) => {
          this.order = order;
        },
      },
    );
    this.bytes = this.lease.bytes;
  }

  get used(): number {
    return this.running.reduce((sum, bytes) => sum + bytes, 0);
  }

  /** Starts what fits, gives back what it is told to and can, and says what it wants. */
  step(): void {
    const [next] = this.waiting;
    if (next !== undefined && next <= this.bytes - this.order.owed - this.used) {
      this.waiting.shift();
      this.running.push(next);
    }
    const can = Math.max(0, Math.min(this.bytes - this.used, this.bytes - this.lease.terms.leastBytes));
    const given = Math.min(can, this.order.owed + this.order.spare);
    if (given > 0) {
      const owed = Math.min(this.order.owed, given);
      this.order = { owed: this.order.owed - owed, spare: this.order.spare - (given - owed) };
      this.bytes -= given;
      this.lease.returned(given);
    }
    const short = (this.waiting[0] ?? 0) - (this.bytes - this.order.owed - this.used);
    this.lease.want(this.waiting.length > 0 ? Math.max(0, short) : 0);
  }
}

const engines = (broker: MemoryBroker, count: number, fixed = 10, least = 20): FakeEngine[] =>
  Array.from({ length: count }, () => {
    const engine = new FakeEngine();
    engine.join(broker, fixed, least);
    return engine;
  });

describe("memory that engines share", () => {
  it("gives each an equal part, and what the others do not use", () => {
    const broker = new MemoryBroker(200, 2);
    const [a, b] = engines(broker, 2) as [FakeEngine, FakeEngine];
    expect([a.bytes, b.bytes, broker.freeBytes]).toEqual([90, 90, 0]);
    a.lease.want(60);
    expect(b.order).toEqual({ spare: 60, owed: 0 });
    b.step();
    expect([a.bytes, b.bytes]).toEqual([150, 30]);
    // What it lends has an end.
    a.lease.want(60);
    b.step();
    expect([a.bytes, b.bytes]).toEqual([160, 20]);
  });

  it("gives back what belongs to another as soon as that wants it", () => {
    const broker = new MemoryBroker(200, 2);
    const [a, b] = engines(broker, 2) as [FakeEngine, FakeEngine];
    a.lease.want(70);
    b.step();
    a.running.push(150);
    b.waiting.push(80);
    b.step();
    expect([a.order, b.running]).toEqual([{ spare: 0, owed: 60 }, []]);
    a.step();
    expect(a.bytes).toBe(150);
    // It starts nothing with what it owes, though its request has ended.
    a.running.pop();
    a.waiting.push(140);
    a.step();
    expect([a.bytes, a.running]).toEqual([100, []]);
    b.step();
    expect(b.running).toEqual([80]);
  });

  it("keeps the part of one that is gone for when it is back", () => {
    const broker = new MemoryBroker(200, 2);
    const [a, b] = engines(broker, 2) as [FakeEngine, FakeEngine];
    b.lease.leave();
    a.lease.want(100);
    expect(a.bytes).toBe(90);
    b.join(broker, 10, 20);
    expect(b.bytes).toBe(90);
    expect(() => new FakeEngine().join(broker, 10, 20)).toThrow(
      expect.objectContaining({ code: "OUT_OF_BUDGET" }),
    );
    expect(() => new FakeEngine().join(new MemoryBroker(100, 2), 40, 20)).toThrow("no part");
  });

  it("never leases more than there is, lets nobody starve, and ends in rest, whatever engines do", () => {
    const random = new TestRandom(11);
    for (let round = 0; round < 20; round++) {
      const count = 2 + random.below(3);
      const broker = new MemoryBroker(100 * count, count);
      const all = engines(broker, count);
      const check = () => {
        const leased = all.reduce((sum, { bytes }) => sum + bytes + 10, 0);
        expect(leased).toBeLessThanOrEqual(100 * count);
        for (const each of all) {
          expect(each.bytes).toBe(each.lease.bytes);
          expect(each.bytes).toBeGreaterThanOrEqual(20);
          expect(each.used).toBeLessThanOrEqual(each.bytes);
        }
      };
      for (let turn = 0; turn < 200; turn++) {
        const engine = all[random.below(count)]!;
        // A request may take the share of an engine, and many requests more.
        if (random.below(3) === 0) engine.waiting.push(1 + random.below(90));
        if (random.below(3) === 0) engine.running.splice(random.below(engine.running.length + 1), 1);
        engine.step();
        check();
      }
      // Requests end; then all that wait get their turn.
      for (let turn = 0; all.some(({ waiting, running }) => waiting.length + running.length > 0); turn++) {
        expect(turn).toBeLessThan(10_000);
        const engine = all[turn % count]!;
        if (random.below(2) === 0) engine.running.shift();
        engine.step();
        check();
      }
      for (const engine of all) engine.step();
      expect(all.map(({ lease, order }) => [lease.wanted, order])).toEqual(
        all.map(() => [0, { spare: 0, owed: 0 }]),
      );
    }
  });
});
