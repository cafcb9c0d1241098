/** What the log has said so far, and when it last said it. */

/** What facts are about; at most one fact is true of a kind and subject at a time. */
export type FactKind =
  /** Where a thing is: "in the boathouse", or "with Mara" while she carries it. */
  | "thing"
  /** Where a thing is that nobody will move: asked about from far away. */
  | "keepsake"
  /** What a person carries: "the brass key". */
  | "carries"
  /** Where a person is. */
  | "person"
  /** Where a boat is: "at the quay" or "at sea". */
  | "boat"
  | "cargo"
  | "price"
  | "job"
  /** What was going on at a place: "two boys were mending a net". */
  | "scene"
  | "weather"
  | "tide"
  | "day";

/** A statement of the log: `value` is the words in which the sentence says it. */
export interface Fact {
  readonly kind: FactKind;
  /** "brass key", "Mara", "Heron", "herring", "baker", "pier"; the kind itself where there is only one. */
  readonly subject: string;
  readonly value: string;
}

/** A fact that holds, with the place in the stream where it was last stated. */
export interface StatedFact extends Fact {
  /** Index of the piece. */
  readonly piece: number;
  /** Words and marks before the end of that statement: about as many as tokens. */
  readonly at: number;
}

/** Facts that were stated and still hold. */
export class FactBook {
  readonly #facts = new Map<string, StatedFact>();

  /** The fact holds and was stated at the given place; it replaces an earlier value. */
  state(fact: Fact, piece: number, at: number): void {
    const { kind, subject, value } = fact;
    this.#facts.set(`${kind} ${subject}`, { kind, subject, value, piece, at });
  }

  /** Nothing that was said about it holds any more. */
  forget(kind: FactKind, subject: string): void {
    this.#facts.delete(`${kind} ${subject}`);
  }

  /** Undefined where nothing that holds was said. */
  get(kind: FactKind, subject: string): StatedFact | undefined {
    return this.#facts.get(`${kind} ${subject}`);
  }

  all(): IterableIterator<StatedFact> {
    return this.#facts.values();
  }
}
