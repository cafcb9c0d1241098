// OP_ATTENTION and OP_ATTENTION_MERGE: softmax(cap(scale * q . k)) v over the pages of each token's sequence.
//
// i: [H, K, D, window (0: none), pairs, style, maxTokens]   f: [scale, softcap (0: none)]
// p: [q f32 [T, H*D], out f32 [T, H*D], laneMap int32 [K][2], rope table or 0, partials, threadScratch]
// Both ops take the same fields. The merge must follow the attention directly, with a barrier before it.
//
// Memory, in bytes, with Dp = D rounded up to 16 and g = H / K:
//   threadScratch, for each thread:  1536 * Dp + 12288
//   partials, for all threads:       roundUp(8 * maxTokens * H, 64)
//                                    + (threads > 1 ? 512 * threads * min(64, maxTokens * g) * (Dp + 16) : 0)
// Both are 64-byte aligned and need no clearing.
#include "millrace.h"
#include "simd.h"
#include "work.h"
