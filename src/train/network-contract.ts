/** What the training loop needs of a model: losses, and gradients of its parameters. */
import type { Trainable } from "./optimisers/contract.js";

/** Windows of tokens, one after another, all of the length that the network was made for. */
export interface Batch {
  readonly tokens: Int32Array;
  /** What is to be predicted at each token: usually the next one. -1: nothing. */
  readonly targets: Int32Array;
  /** Of each target's loss; absent: all 1. */
  readonly weights?: Float32Array;
}

export interface BatchLoss {
  /** Sum of weight * -ln p(target), in nats. */
  readonly loss: number;
  /** Sum of the weights of all targets: loss / weight is the mean. */
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
