/**
 * Turns a conversation into the text that a model was trained to continue, by the Jinja template in its file.
 *
 * A file without a template gets one of two, and `chatFormat` says which: ChatML where the vocabulary has its tokens
 * `<|im_start|>` and `<|im_end|>`, else plain lines "User: ..." and "Assistant: ...", with stop strings, since a
 * model that was never taught to end its turn would go on to write the user's.
 */
import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { MillraceError } from "../errors.js";
import type { Tokenizer } from "./contract.js";
import { spokenTools, withParsedCalls } from "./tools/conversation.js";
import { knowsTools } from "./tools/resolve.js";
import { decodeUtf8 } from "./utf8.js";

/** One turn. Templates may read other keys than these ("tool_calls", "reasoning_content"): they are passed on. */
export interface ChatMessage {
  /** "system", "user", "assistant" or "tool"; templates may know others. */
  readonly role: string;
  readonly content: string;
}

export interface ChatOptions {
  /** End with the opening of the assistant's turn. Default true. */
  readonly addGenerationPrompt?: boolean;
  /**
   * JSON schemas of functions that the model may call, as its template expects them. Where the template knows nothing of
   * tools, the system message tells the model of them.
   */
  readonly tools?: readonly unknown[];
  /** The day that the template may tell the model. Default: now. */
  readonly date?: Date;
  /** Other variables that the template reads, such as `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

export interface ChatFormat {
  /** "model": the file's own template. */
  readonly kind: "model" | "chatml" | "plain";
  readonly template: string;
  /** Texts that end the assistant's turn where no token does. */
  readonly stop: readonly string[];
}

type ChatTokenizer = Pick<Tokenizer, "chatTemplate" | "bosId" | "eosId" | "addsBos" | "tokenBytes" | "idOf">;

const CHATML = `{% for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}`;

const PLAIN = `{% for message in messages -%}
{% if message.role == "system" %}{{ message.content }}

{% elif message.role == "user" %}User: {{ message.content }}
{% elif message.role == "assistant" %}Assistant: {{ message.content }}
{% elif message.role == "tool" %}Tool: {{ message.content }}
{% else %}{{ raise_exception("unknown role " + message.role) }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}Assistant:{% endif %}`;

/** The template that `renderChat` uses for a model. */
export function chatFormat(tokenizer: Pick<Tokenizer, "chatTemplate" | "idOf">): ChatFormat {
  if (tokenizer.chatTemplate !== null) return { kind: "model", template: tokenizer.chatTemplate, stop: [] };
  const hasChatml = ["<|im_start|>", "<|im_end|>"].every((name) => tokenizer.idOf(name) !== undefined);
  if (hasChatml) return { kind: "chatml", template: CHATML, stop: [] };
  return { kind: "plain", template: PLAIN, stop: ["\nUser:", "\nAssistant:", "\nTool:"] };
}

/**
 * The conversation as text, to be encoded with `addSpecial: false, parseSpecial: true`: the BOS token's name stands in
 * it where the model wants one, whether the template writes it or not.
 *
 * Throws INVALID_ARGUMENT for messages that are none, BAD_TEMPLATE where the template cannot be read, or refuses the
 * conversation (its own words are in the message).
 */
export function renderChat(
  tokenizer: ChatTokenizer,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): string {
  checkMessages(messages);
  const { addGenerationPrompt = true, tools, date = new Date(), variables = {} } = options;
  const { template } = chatFormat(tokenizer);
  const bosToken = nameOf(tokenizer, tokenizer.bosId);
  const parsed = withParsedCalls(messages);
  const spoken = tools !== undefined && tools.length > 0 && !knowsTools(template);
  const text = renderTemplate(template, {
    ...variables,
    messages: spoken ? spokenTools(parsed, tools) : parsed,
    add_generation_prompt: addGenerationPrompt,
    bos_token: bosToken,
    eos_token: nameOf(tokenizer, tokenizer.eosId),
    strftime_now: (format: string) => formatDate(date, format),
    ...(tools === undefined ? {} : { tools }),
    ...(options.date === undefined ? {} : { date_string: formatDate(date, "%d %b %Y") }),
  });
  return tokenizer.addsBos && !text.startsWith(bosToken) ? bosToken + text : text;
}

/**
 * Renders a Jinja template with `variables` and what chat templates count on: `raise_exception`, `range`, and Python's
 * names of constants. Throws BAD_TEMPLATE.
 */
function renderTemplate(template: string, variables: Readonly<Record<string, unknown>>): string {
  let parsed: Template;
  try {
    parsed = new Template(template);
  } catch (error) {
    throw badTemplate("cannot be read", error, "Give another template, or convert the model file anew.");
  }
  const environment = new Environment();
  try {
    for (const [name, value] of Object.entries({ ...GLOBALS, ...variables })) environment.set(name, value);
    return String(new Interpreter(environment).run(parsed.parsed).value);
  } catch (error) {
    throw badTemplate(
      "refused the conversation",
      error,
      "Change the messages to what the model was trained on.",
    );
  }
}

/** Templates come with files from anywhere: a range that long is no loop over messages. */
const MAX_RANGE = 100_000;

const GLOBALS = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  raise_exception(message: unknown): never {
    throw new Error(String(message));
  },
  range(first: number, second?: number, step = 1): number[] {
    const [start, stop] = second === undefined ? [0, first] : [first, second];
    if (step === 0) throw new Error("range() with a step of 0");
    const length = Math.max(0, Math.ceil((stop - start) / step));
    if (!(length <= MAX_RANGE))
      throw new Error(`range() of ${length} numbers; at most ${MAX_RANGE} are made`);
    return Array.from({ length }, (_, i) => start + i * step);
  },
};

function badTemplate(what: string, cause: unknown, advice: string): MillraceError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new MillraceError(
    "BAD_TEMPLATE",
    `The chat template ${what}: ${reason}. ${advice}`,
    { reason },
    { cause },
  );
}

function checkMessages(messages: readonly ChatMessage[]): void {
  const refuse = (got: string, expected: string): never => {
    throw new MillraceError("INVALID_ARGUMENT", `messages: got ${got}; expected ${expected}.`, {
      name: "messages",
      got,
      expected,
    });
  };
  if (!Array.isArray(messages) || messages.length === 0) {
    refuse(Array.isArray(messages) ? "an empty list" : typeof messages, "a list of at least one message");
  }
  messages.forEach((message, i) => {
    if (typeof message?.role !== "string" || message.role === "") {
      refuse(`role ${String(message?.role)} in message ${i}`, '"system", "user", "assistant" or "tool"');
    }
    if (typeof message.content !== "string") {
      refuse(`content of type ${typeof message.content} in message ${i}`, "a text");
    }
  });
}

const nameOf = (tokenizer: ChatTokenizer, id: number | null): string =>
  id === null ? "" : decodeUtf8(tokenizer.tokenBytes(id));

/** The strftime fields that chat templates use, in English and local time whatever the machine's language. */
function formatDate(date: Date, format: string): string {
  const two = (n: number) => String(n).padStart(2, "0");
  const name = (options: Intl.DateTimeFormatOptions) =>
    new Intl.DateTimeFormat("en-US", options).format(date);
  const fields: Readonly<Record<string, () => string>> = {
    Y: () => String(date.getFullYear()),
    y: () => two(date.getFullYear() % 100),
    m: () => two(date.getMonth() + 1),
    d: () => two(date.getDate()),
    H: () => two(date.getHours()),
    M: () => two(date.getMinutes()),
    S: () => two(date.getSeconds()),
    B: () => name({ month: "long" }),
    b: () => name({ month: "short" }),
    A: () => name({ weekday: "long" }),
    a: () => name({ weekday: "short" }),
    "%": () => "%",
  };
  return format.replace(/%([A-Za-z%])/g, (field, letter: string) => fields[letter]?.() ?? field);
}
