/** Puts text on the clipboard; true where it is there. Without TLS browsers have the older way only. */
export async function copy(text: string): Promise<boolean> {
  try {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
      return true;
    }
  } catch {
    // Forbidden: the older way may not be.
  }
  const had = document.activeElement;
  const box = document.createElement("textarea");
  box.value = text;
  document.body.append(box);
  box.select();
  const done = document.execCommand("copy");
  box.remove();
  if (had instanceof HTMLElement) had.focus();
  return done;
}
