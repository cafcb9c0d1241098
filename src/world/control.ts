/** The control tokens of the log, and how a conversation is written with them. */

/** First token of every context: the log begins. It carries no meaning beyond that, and so can be an attention sink. */
export const BOS = "<|log|>";
export const USER = "<|user|>";
export const ASSISTANT = "<|assistant|>";
/** Ends an answer. */
export const END = "<|end|>";

/** All control tokens, BOS first. */
export const CONTROL_TOKENS = [BOS, END, USER, ASSISTANT] as const;

/**
 * Jinja template of a conversation. A system message is log text, as it is; so a log and questions about it are a
 * conversation like any other.
 */
export const CHAT_TEMPLATE = `{{- bos_token }}
{%- for message in messages %}
{%- if message.role == "user" %}{{ "${USER}" + message.content }}
{%- elif message.role == "assistant" %}{{ "${ASSISTANT}" + message.content + "${END}\\n" }}
{%- elif message.role == "system" %}{{ message.content + "\\n" }}
{%- else %}{{ raise_exception("unknown role " + message.role) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "${ASSISTANT}" }}{% endif %}`;
