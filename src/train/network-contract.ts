/** What the training loop needs of a model: losses, and gradients of its parameters. */
import type { Trainable } from "./optimisers/contract.js";

/** Sequences that lie one after another, all of the length that the network was made for. */
export interface Batch {
  readonly tokens: Int32Array;
  /** -1: nothing is asked. */
  readonly targets: Int32Array;
  /** Factors on the losses; absent: all 1. */
  readonly weights?: Float32Array;
}

/** Sum of weighted losses in nats, and of the weights. */
export interface BatchLoss {
  readonly loss: number;
  readonly weight: number;
}

export interface TrainableNetwork {
  readonly parameters: readonly Trainable[];
  zeroGradients(): void;
  /** Adds `scale` times the gradient of the summed loss to every gradient. */
  accumulate(batch: Batch, scale: number): Promise<BatchLoss>;
  evaluate(batch: Batch): Promise<BatchLoss>;
  dispose(): void;
}
