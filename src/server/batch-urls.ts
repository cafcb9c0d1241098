/** The endpoints that the lines of a batch may name. */
export const BATCH_URLS = [
  "/v1/chat/completions",
  "/v1/completions",
  "/v1/responses",
  "/v1/embeddings",
] as const;
