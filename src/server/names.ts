/** "topP" as OpenAI's API would write it: "top_p". */
export const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
