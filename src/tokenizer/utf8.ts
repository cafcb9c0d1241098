/** UTF-8 both ways, with no special treatment of the byte order mark: it is a character like any other. */
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

export const encodeUtf8 = (text: string): Uint8Array => encoder.encode(text);

/** Invalid bytes become U+FFFD, one for each maximal part of a character, as the WHATWG Encoding standard has it. */
export const decodeUtf8 = (bytes: Uint8Array): string => decoder.decode(bytes);

/** `text` with every lone surrogate replaced by U+FFFD. */
export const wellFormed = (text: string): string =>
  /[\ud800-\udfff]/.test(text) ? decodeUtf8(encodeUtf8(text)) : text;
