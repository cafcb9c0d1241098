/**
 * Scrolls what `part` lies in until it is in sight, its beginning first. Element.scrollIntoView would also move where Tab goes
 * on from.
 */
export function reveal(part: Element): void {
  for (let box = part.parentElement; box; box = box.parentElement) {
    if (box.scrollHeight <= box.clientHeight) continue;
    const inner = part.getBoundingClientRect();
    const outer = box.getBoundingClientRect();
    const above = inner.top - outer.top;
    const below = inner.bottom - outer.bottom;
    if (above < 0 || below > 0) box.scrollTop += above < 0 ? above : Math.min(above, below);
  }
}
