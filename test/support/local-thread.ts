/**
 * An engine behind a message channel in this very thread: the messages, their copies and their order are those of a
 * worker, without the start of one.
 */
import { MessageChannel } from "node:worker_threads";
import type { Backend } from "../../src/backends/contract.js";
import { createNull } from "../../src/backends/null.js";
import { createReference } from "../../src/backends/reference/index.js";
import type { EngineThread } from "../../src/engine/connection.js";
import { type Loader, serve } from "../../src/engine/host.js";
import { assemble } from "../../src/engine/load.js";
import { type OpenOptions, openOn, openParameters } from "../../src/engine/open.js";
import { type Model, makeModel } from "../../src/session/model.js";
import { tinyCheckpoint, tinyModel } from "./tiny-models.js";

export function localThread(load: Loader): EngineThread {
  const { port1, port2 } = new MessageChannel();
  serve(port1, load);
  port2.unref();
  return {
    post: (message) => port2.postMessage(message),
    listen(onMessage, onEnd) {
      port2.on("message", onMessage);
      port2.on("close", () => onEnd("port closed"));
      port2.unref();
    },
    hold: (alive) => (alive ? port2.ref() : port2.unref()),
    async terminate() {
      port1.close();
    },
  };
}

/** A tiny model (vocabulary 320, trained for 512 tokens) with its tokenizer, on the backend that `make` makes. */
export const loadTiny =
  (make: () => Backend, architecture: "llama" | "qwen2" = "llama"): Loader =>
  (parameters, onProgress, sessions) => {
    const checkpoint = tinyCheckpoint(tinyModel(architecture), "gguf");
    const { metadata } = checkpoint;
    const spoken = { ...checkpoint, tokenizer: { kind: "gguf", metadata } } as const;
    return assemble(spoken, { backend: make(), reason: null }, parameters, onProgress, sessions);
  };

/** A tiny Llama whose logits are the null backend's. */
export const loadNull: Loader = loadTiny(createNull);

/** That model behind a message channel. */
export function openNull(options: OpenOptions = {}, load: Loader = loadNull): Promise<Model> {
  const parameters = openParameters("(memory)", { ...options, backend: "null" });
  return openOn(localThread(load), parameters, options, makeModel);
}

/** A tiny model, by default one that computes, behind a message channel. */
export function openTiny(
  make: () => Backend = createReference,
  architecture?: "llama" | "qwen2",
): Promise<Model> {
  return openOn(localThread(loadTiny(make, architecture)), openParameters("(memory)", {}), {}, makeModel);
}
