/**
 * The alphabet in which byte-level BPE writes bytes as printable characters (GPT-2): printable Latin-1 stands for
 * itself, every other byte takes the next free character from U+0100 on.
 */
const characters: string[] = [];
const bytes = new Map<string, number>();
let free = 0x100;
for (let byte = 0; byte < 256; byte++) {
  const printable =
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  const character = String.fromCharCode(printable ? byte : free++);
  characters.push(character);
  bytes.set(character, byte);
}

/** [256] character of each byte. */
export const BYTE_CHARACTERS: readonly string[] = characters;

/** Byte that a character stands for; undefined for characters outside the alphabet. */
export const byteOf = (character: string): number | undefined => bytes.get(character);

/** The byte that a fallback piece "<0xHH>" stands for, or -1. */
export function fallbackByte(piece: string): number {
  const match = /^<0x([0-9A-Fa-f]{2})>$/.exec(piece);
  return match === null ? -1 : Number.parseInt(match[1]!, 16);
}
