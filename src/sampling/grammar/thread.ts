/**
 * The thread that compiles grammars, follows them, and says which tokens may come next; xgrammar does the work (Dong et
 * al., "XGrammar: Flexible and Efficient Structured Generation Engine for Large Language Models", 2024). A thread of its
 * own, since a grammar may take any time to compile, and since the library, which is WebAssembly without exceptions,
 * ends where a grammar is wrong.
 */
import type { CompiledGrammar, GrammarCompiler, GrammarMatcher } from "@mlc-ai/web-xgrammar";
import type { FormatSpec } from "./format.js";

/** Tokens as the grammar sees them: their bytes. */
export interface GrammarVocabulary {
  /** Bytes of all tokens, one after another. */
  readonly bytes: Uint8Array;
  /** [size] where each token's bytes end. A token without any is in no grammar. */
  readonly ends: Uint32Array;
  /** Tokens that end an answer; where there are none, a grammar may only go on or be at its end. */
  readonly endIds: readonly number[];
}

export interface ThreadData {
  /** The library's file. */
  readonly path: string;
  readonly vocabulary: GrammarVocabulary;
  /** Compiled grammars that are kept for others who ask for the same. */
  readonly kept: number;
}

export type ToGrammarThread =
  /** Answered when it is known whether the grammar can be compiled. */
  | { readonly type: "try"; readonly id: number; readonly spec: FormatSpec }
  /** Answered when the board has the first mask; `accepted` are tokens that have been chosen already. */
  | {
      readonly type: "start";
      readonly id: number;
      readonly spec: FormatSpec;
      readonly accepted: readonly number[];
      readonly board: SharedArrayBuffer;
    }
  /** The board has the next mask when its first word has grown by 1. */
  | { readonly type: "accept"; readonly id: number; readonly token: number }
  | { readonly type: "end"; readonly id: number };

export interface FromGrammarThread {
  readonly id: number;
  /** What is wrong, in the library's words; null: nothing. */
  readonly error: string | null;
}

/**
 * A matcher's board: int32 word 0 counts the masks that were written, or is -1 when it failed; from word 1 on stands the
 * mask, token i at bit i % 32 of word i / 32.
 */
export const BOARD = { masks: 0, mask: 1, failed: -1 } as const;

type Library = typeof import("@mlc-ai/web-xgrammar");

/** An answer under way. */
interface Matching {
  readonly matcher: GrammarMatcher;
  readonly board: Int32Array;
  /** [words of a mask] what no answer of its format may hold, set bit by set bit; null: nothing. */
  readonly never: Int32Array | null;
  /** Bytes of a character that is not complete. */
  begun: readonly number[];
}

/** An instance of the library, which is left when it has failed: nobody knows what state it is in. */
interface Instance {
  readonly library: Library;
  readonly compiler: GrammarCompiler;
  readonly grammars: Map<string, CompiledGrammar>;
  readonly matchers: Map<number, Matching>;
  /** What the library has said of its failure. */
  readonly said: string[];
  readonly memory: WebAssembly.Memory;
}

/** Runs in the thread, to which it is sent as text: it may use nothing from outside. */
export function grammarThread(
  require: NodeJS.Require,
  { masks, mask, failed }: { masks: number; mask: number; failed: number },
): void {
  const { parentPort, workerData } = require("node:worker_threads") as typeof import("node:worker_threads");
  const { readFileSync } = require("node:fs") as typeof import("node:fs");
  const Module = require("node:module") as unknown as new (
    path: string,
  ) => { exports: unknown; _compile(source: string, path: string): void };
  const { path, vocabulary, kept } = workerData as ThreadData;
  const port = parentPort!;

  type Make = (module: { exports: Library }, exports: Library, console: object, wasm: object) => void;
  let make: Make | null = null;
  let wasm: WebAssembly.Module | null = null;
  let instance: Instance | null = null;

  /**
   * The library's file is neither an ES module nor one that `require` takes, since its package says that it is one. What
   * it writes to the console is kept here, and it is compiled once for all instances.
   */
  async function load(): Promise<Instance> {
    if (!make) {
      const file = new Module(path);
      file._compile(
        `module.exports = (module, exports, console, WebAssembly) => {${readFileSync(path, "utf8")}\n}`,
        path,
      );
      make = file.exports as Make;
    }
    const said: string[] = [];
    const say = (...words: unknown[]) => said.push(words.join(" "));
    const engine: { instantiate: unknown } = Object.create(WebAssembly);
    engine.instantiate = async (bytes: BufferSource, imports: WebAssembly.Imports) => {
      wasm ??= await WebAssembly.compile(bytes);
      const started = await WebAssembly.instantiate(wasm, imports);
      memory = Object.values(started.exports).find((each) => each instanceof WebAssembly.Memory) ?? null;
      return { module: wasm, instance: started };
    };
    let memory: WebAssembly.Memory | null = null;
    const module = { exports: {} as Library };
    make(module, module.exports, { log: say, warn: say, error: say }, engine);
    const library = module.exports;

    const { bytes, ends, endIds } = vocabulary;
    const tokens = Array.from(ends, (end, id) => bytes.slice(id === 0 ? 0 : ends[id - 1]!, end));
    const info = await library.TokenizerInfo.createTokenizerInfo(
      // Bytes are taken as they are; text would have to be whole characters.
      tokens as unknown as string[],
      "raw",
      false,
      ends.length,
      [...endIds],
    );
    const compiler = await library.GrammarCompiler.createGrammarCompiler(info, false);
    info.dispose();
    return { library, compiler, grammars: new Map(), matchers: new Map(), said, memory: memory! };
  }

  /** The words of a C++ exception, of which nobody is told but its address: a pointer to them is its second word. */
  function exceptionWords({ buffer }: WebAssembly.Memory, address: number): string {
    const bytes = new Uint8Array(buffer);
    const at =
      address % 4 === 0 && address + 8 <= bytes.length ? new Uint32Array(buffer, address + 4, 1)[0]! : 0;
    const end = bytes.indexOf(0, at);
    const words =
      at === 0 || end < 0 ? "" : new TextDecoder().decode(bytes.subarray(at, Math.min(end, at + 500)));
    return words || "its compiler refuses it";
  }

  async function compile({ library, compiler }: Instance, spec: FormatSpec): Promise<CompiledGrammar> {
    const json = (schema: unknown, strict: boolean) =>
      compiler.compileJSONSchema(JSON.stringify(schema), false, -1, [", ", ": "], strict);
    switch (spec.type) {
      case "json":
        return json({ type: ["object", "array"] }, false);
      case "json-schema":
        return json(spec.schema, spec.strict ?? true);
      case "grammar": {
        const grammar = await library.Grammar.fromEBNF(spec.ebnf);
        const compiled = await compiler.compileGrammar(grammar);
        grammar.dispose();
        return compiled;
      }
      case "regex":
        return compiler.compileStructuralTag({ type: "regex", pattern: spec.pattern });
      case "structure":
        return compiler.compileStructuralTag(
          (await onOneLine(library, JSON.parse(spec.tag))) as Record<string, unknown>,
        );
    }
  }

  /** `tag` with grammars for its schemas: of a schema itself the library would allow white space without end. */
  async function onOneLine(library: Library, tag: unknown): Promise<unknown> {
    if (Array.isArray(tag)) return Promise.all(tag.map((each) => onOneLine(library, each)));
    if (typeof tag !== "object" || tag === null) return tag;
    const { type, json_schema: schema } = tag as Record<string, unknown>;
    if (type === "json_schema") {
      const grammar = await library.Grammar.fromJSONSchema(
        JSON.stringify(schema),
        false,
        -1,
        [", ", ": "],
        true,
      );
      const text = grammar.toString();
      grammar.dispose();
      return { type: "grammar", grammar: text };
    }
    const entries = Object.entries(tag).map(async ([key, value]) => [key, await onOneLine(library, value)]);
    return Object.fromEntries(await Promise.all(entries)) as unknown;
  }

  /** The compiled grammar, from those that are kept where it is there. */
  async function grammarOf(at: Instance, spec: FormatSpec): Promise<CompiledGrammar> {
    const key = JSON.stringify(spec);
    const known = at.grammars.get(key);
    const grammar = known ?? (await compile(at, spec));
    at.grammars.delete(key);
    at.grammars.set(key, grammar);
    for (const [oldest, old] of at.grammars) {
      if (at.grammars.size <= kept) break;
      at.grammars.delete(oldest);
      old.dispose();
    }
    return grammar;
  }

  const bytesOf = (id: number) =>
    vocabulary.bytes.subarray(id === 0 ? 0 : vocabulary.ends[id - 1]!, vocabulary.ends[id]!);

  /**
   * What is left of a character at the end of `bytes` after `begun`; null where they are no UTF-8 (Unicode standard, table
   * 3-7), which the library does not look at closely.
   */
  function rest(begun: readonly number[], bytes: Uint8Array): readonly number[] | null {
    const all = [...begun, ...bytes];
    for (let i = 0; i < all.length; ) {
      const lead = all[i]!;
      const length =
        lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
      if (length === 0) return null;
      for (let j = 1; j < length; j++) {
        const byte = all[i + j];
        if (byte === undefined) return all.slice(i);
        const low = j > 1 ? 0x80 : lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
        const high = j > 1 ? 0xbf : lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
        if (byte < low || byte > high) return null;
      }
      i += length;
    }
    return [];
  }

  /** Tokens that are not whole characters: only where they stand decides whether they are any. */
  const broken: number[] = [];
  vocabulary.ends.forEach((_, id) => {
    const bytes = bytesOf(id);
    if (bytes.some((byte) => byte >= 0x80) && rest([], bytes)?.length !== 0) broken.push(id);
  });

  /** Tokens with control characters, which no JSON on one line has; the library lets them into some strings. */
  function control(but: number): Int32Array {
    const words = new Int32Array(Math.ceil(vocabulary.ends.length / 32));
    vocabulary.ends.forEach((_, id) => {
      if (bytesOf(id).some((byte) => byte < 0x20 && byte !== but)) words[id >> 5]! |= 1 << (id & 31);
    });
    return words;
  }
  const inJson = control(-1);
  const inStructure = control(0x0a);

  async function tell({ board, matcher, never, begun }: Matching): Promise<void> {
    const words = await matcher.getNextTokenBitmask();
    if (never) for (let i = 0; i < words.length; i++) words[i]! &= ~never[i]!;
    for (const id of broken) {
      const bit = 1 << (id & 31);
      if ((words[id >> 5]! & bit) !== 0 && rest(begun, bytesOf(id)) === null) words[id >> 5]! &= ~bit;
    }
    board.set(words, mask);
    Atomics.add(board, masks, 1);
    Atomics.notify(board, masks);
  }

  function accept(matching: Matching, token: number): boolean {
    if (!matching.matcher.acceptToken(token)) return false;
    matching.begun = rest(matching.begun, bytesOf(token)) ?? [];
    return true;
  }

  async function start(
    at: Instance,
    { id, spec, accepted, board }: Extract<ToGrammarThread, { type: "start" }>,
  ) {
    const grammar = await grammarOf(at, spec);
    const endless = vocabulary.endIds.length === 0;
    const matcher = await at.library.GrammarMatcher.createGrammarMatcher(grammar, undefined, endless);
    const isJson = spec.type === "json" || spec.type === "json-schema";
    const never = isJson ? inJson : spec.type === "structure" ? inStructure : null;
    const matching: Matching = { matcher, board: new Int32Array(board), never, begun: [] };
    at.matchers.set(id, matching);
    for (const token of accepted) {
      if (accept(matching, token)) continue;
      at.matchers.delete(id);
      matcher.dispose();
      port.postMessage({ id, error: `token ${token} is not what the format allows there` });
      return;
    }
    await tell(matching);
    port.postMessage({ id, error: null });
  }

  function fail(board: Int32Array): void {
    Atomics.store(board, masks, failed);
    Atomics.notify(board, masks);
  }

  async function handle(message: ToGrammarThread): Promise<void> {
    const { id } = message;
    try {
      if (message.type === "try") {
        instance ??= await load();
        (await compile(instance, message.spec)).dispose();
        port.postMessage({ id, error: null });
      } else if (message.type === "start") {
        instance ??= await load();
        await start(instance, message);
      } else {
        const entry = instance?.matchers.get(id);
        if (!entry) return;
        if (message.type === "end") {
          instance!.matchers.delete(id);
          entry.matcher.dispose();
        } else if (accept(entry, message.token)) await tell(entry);
        else fail(entry.board);
      }
    } catch (error) {
      const at = instance;
      instance = null;
      const fatal = at?.said.findLast((line) => line.startsWith("[FATAL]"));
      for (const { board } of at?.matchers.values() ?? []) fail(board);
      const reason = fatal?.replace(/^\[FATAL\] \S*:\d+: (Check failed: \(.*?\) is false: )?/s, "");
      const thrown = typeof error === "number" && at ? exceptionWords(at.memory, error) : String(error);
      const message = error instanceof Error ? error.message : thrown;
      port.postMessage({ id, error: (reason || message).trim() });
    }
  }

  let last = Promise.resolve();
  port.on("message", (message: ToGrammarThread) => {
    last = last.then(() => handle(message));
  });
}
