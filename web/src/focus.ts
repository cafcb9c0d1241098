import { useLayoutEffect, useRef } from "preact/hooks";

/** The box that is written in, of the view that is shown. */
export const focusComposer = (): void =>
  document.querySelector<HTMLElement>("main .composer textarea")?.focus();

/**
 * For a part of the page whose controls come and go with `state`: where the one that had the focus by keyboard goes, `then`
 * says what gets it. Fingers and mice are left alone: a phone's keyboard would jump up.
 */
export function useFocusAfter<T extends HTMLElement>(state: unknown, then: (part: T) => void) {
  const part = useRef<T>(null);
  const before = document.activeElement;
  const had = before?.matches(":focus-visible") && part.current?.contains(before);
  useLayoutEffect(() => {
    if (had && part.current && !(before?.isConnected && before === document.activeElement))
      then(part.current);
  }, [state]);
  return part;
}
