/** Lists that are longer than one answer. */
import { ApiError } from "./errors.js";

/** The page of `list` that `query` asks for, as OpenAI's clients read pages. Throws 400 for an `after` that is not in it. */
export function pageOfList<T extends { readonly id: string }>(
  list: readonly T[],
  { after, limit }: { readonly after?: string | undefined; readonly limit: number },
) {
  const at = after === undefined ? -1 : list.findIndex(({ id }) => id === after);
  if (after !== undefined && at < 0) {
    throw new ApiError(400, "invalid_value", "'after' is no id of this list.", { param: "after" });
  }
  const data = list.slice(at + 1, at + 1 + limit);
  return {
    object: "list" as const,
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: at + 1 + limit < list.length,
  };
}
