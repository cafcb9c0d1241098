/**
 * The seam where adapters join a network: beside any matrix of the tape stands an extra path from the matrix's input
 * to its output, with parameters of its own.
 *
 *     y = W x + extra(x)
 *
 * An adapter keeps nothing from forward to backward: `backward` gets x again and remakes what it needs (a low-rank
 * product costs next to nothing), in scratch memory that the network lends for the length of a call.
 */
import type { Matrix } from "../backends/training.js";
import type { Parameter } from "./parameters.js";

/** A matrix of the tape: rows rowStart .. rowStart + rows - 1 of a stored tensor (all of it, unless it is fused). */
export interface AdaptedMatrix {
  readonly tensor: string;
  readonly rowStart: number;
  readonly rows: number;
  readonly columns: number;
}

export interface Adapter {
  /** What trains; the adapter allocates and frees it. Adapters of one tensor's parts may share parameters. */
  readonly parameters: readonly Parameter[];
  /** Scratch numbers wanted for each row of x. */
  readonly scratchWidth: number;
  /**
   * out [N, rows] += extra(x [N, columns]). `scratch` is [N, scratchWidth], null where the width is 0; its contents
   * mean nothing. Called in every step, for all rows at once or for some of them at a time; only calls arithmetic.
   */
  forward(x: Matrix, out: Matrix, scratch: Matrix | null): void;
  /** Adds to the parameters' gradients, and to dX where it is wanted. Called as `forward` is. */
  backward(x: Matrix, dOut: Matrix, dX: Matrix | null, scratch: Matrix | null): void;
}

/** The adapter of a matrix, or null where it has none. Called once per matrix when a network is made. */
export type Adapt = (matrix: AdaptedMatrix) => Adapter | null;
