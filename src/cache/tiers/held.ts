/** Ids of the tokens that a cache still holds: what the blocks that they leave it in are found by. */
export class HeldTokens {
  readonly #groups: number;
  /** By position, in the order of the stream: the id, and how many groups still hold the token. */
  readonly #tokens = new Map<number, { readonly id: number; left: number }>();

  /** @param groups That hold each token. */
  constructor(groups: number) {
    this.#groups = groups;
  }

  /** Tokens that have just been stored, at ascending positions. */
  note(positions: ArrayLike<number>, ids: ArrayLike<number>): void {
    for (let i = 0; i < positions.length; i++) {
      this.#tokens.set(positions[i]!, { id: ids[i]!, left: this.#groups });
    }
  }

  /** The id of a token that leaves one group, -1 where it was never told. */
  release(position: number): number {
    const token = this.#tokens.get(position);
    if (!token) return -1;
    token.left--;
    if (token.left === 0) this.#tokens.delete(position);
    return token.id;
  }

  /** The stream goes back to position `to`. */
  rewind(to: number): void {
    for (const position of [...this.#tokens.keys()]) if (position >= to) this.#tokens.delete(position);
  }

  /** All ids, cut into runs of `tokens`. */
  blocks(tokens: number): Int32Array[] {
    const ids = Int32Array.from(this.#tokens.values(), ({ id }) => id);
    const count = Math.ceil(ids.length / tokens);
    return Array.from({ length: count }, (_, i) => ids.subarray(i * tokens, (i + 1) * tokens));
  }

  /** As [position, id], for `restore`. */
  save(): (readonly [number, number])[] {
    return [...this.#tokens].map(([position, { id }]) => [position, id] as const);
  }

  /** @param holders How many groups hold the token at a position; one that none holds is passed over. */
  restore(saved: readonly (readonly [number, number])[], holders: (position: number) => number): void {
    for (const [position, id] of saved) {
      const left = holders(position);
      if (left > 0) this.#tokens.set(position, { id, left });
    }
  }
}
