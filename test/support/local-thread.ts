/**
 * An engine behind a message channel in this very thread: the messages, their copies and their order are those of a
 * worker, without the start of one.
 */
import { MessageChannel } from "node:worker_threads";
import { createNull } from "../../src/backends/null.js";
import type { EngineThread } from "../../src/engine/connection.js";
import { type Loader, serve } from "../../src/engine/host.js";
import { assemble } from "../../src/engine/load.js";
import { type OpenOptions, openOn, openParameters } from "../../src/engine/model.js";
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

/** A tiny Llama (vocabulary 320, trained for 512 tokens) whose logits are the null backend's. */
export const loadNull: Loader = (parameters, onProgress, sessions) => {
  const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
  const { metadata } = checkpoint;
  return assemble(
    { ...checkpoint, tokenizer: { kind: "gguf", metadata } },
    { backend: createNull(), reason: null },
    parameters,
    onProgress,
    sessions,
  );
};

/** That model behind a message channel. */
export function openNull(options: OpenOptions = {}, load: Loader = loadNull): Promise<Model> {
  const parameters = openParameters("(memory)", { ...options, backend: "null" });
  return openOn(localThread(load), parameters, options, makeModel);
}
