import DOMPurify from "dompurify";
import { Marked } from "marked";
import { useMemo } from "preact/hooks";

const markdown = new Marked({
  async: false,
  breaks: true,
  // Below the page's own headings.
  walkTokens: (token) => {
    if (token.type === "heading") token.depth = Math.min(6, token.depth + 2);
  },
});

// What an answer links to opens beside the page, and is not told where from.
DOMPurify.addHook("afterSanitizeAttributes", (element) => {
  if (element.tagName !== "A") return;
  element.setAttribute("target", "_blank");
  element.setAttribute("rel", "noopener noreferrer");
});

/** Answers are Markdown, of which nothing runs, nothing is fetched, and nothing looks like a part of the page. */
export function Answer({ content }: { readonly content: string }) {
  const html = useMemo(
    () =>
      DOMPurify.sanitize(markdown.parse(content, { async: false }), {
        USE_PROFILES: { html: true },
        FORBID_TAGS: [
          "img",
          "picture",
          "video",
          "audio",
          "style",
          "form",
          "input",
          "button",
          "select",
          "textarea",
          "dialog",
        ],
        FORBID_ATTR: ["style", "class", "id", "name", "role", "tabindex", "background"],
        ALLOW_ARIA_ATTR: false,
        ALLOW_DATA_ATTR: false,
      }),
    [content],
  );
  // Cleaned just above.
  return <div class="text" dangerouslySetInnerHTML={{ __html: html }} />;
}
