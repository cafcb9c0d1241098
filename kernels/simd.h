// The only file that knows an instruction set.
//
// Kernels are written over vectors of 16 lanes: f32x16, i32x16, and u8x64 (16 lanes of 4 bytes). Each target states
// its register type and a few operations on one register (W lanes, prefix vf_ vi_ vb_); the second half of this
// file lifts them to 16 lanes, so that a new target is one block of about thirty lines.
//
// Targets: AVX-512 (VNNI where present), AVX2 with FMA and F16C (AVX-VNNI where present), NEON, WebAssembly
// simd128 and relaxed simd, and plain scalar C (also forced by -DMILL_SCALAR).
#ifndef MILLRACE_SIMD_H
#define MILLRACE_SIMD_H

#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline, unused))

INLINE float bits_to_f32(uint32_t u) {
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}

INLINE uint32_t f32_to_bits(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  return u;
}

// Half precision to single, exact for all finite values (the multiplication also normalises subnormals).
INLINE float f16_to_f32(uint16_t h) {
  uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
  float f = bits_to_f32(magnitude) * 0x1p112f;
  if ((h & 0x7c00) == 0x7c00) f = bits_to_f32(0x7f800000u | magnitude);
  return bits_to_f32(f32_to_bits(f) | ((uint32_t)(h & 0x8000) << 16));
}

// Single to half, to nearest even; beyond the range of halves it saturates to +-65504, so that a stored key or
// value never becomes infinite.
INLINE uint16_t f32_to_f16(float f) {
  uint32_t u = f32_to_bits(f), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
  if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (a >= 0x477fe000) return (uint16_t)(sign | 0x7bff);
  if (a < 0x38800000) {  // subnormal half: let float addition do the rounding
    float shifted = bits_to_f32(a) + 0.5f;
    return (uint16_t)(sign | (f32_to_bits(shifted) - 0x3f000000));
  }
  return (uint16_t)(sign | ((a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13));
}

INLINE float bf16_to_f32(uint16_t h) { return bits_to_f32((uint32_t)h << 16); }

// ---------------------------------------------------------------------------------------------------- AVX-512
#if !defined(MILL_SCALAR) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define W 16
#ifdef __AVX512VNNI__
#define SIMD_NAME "AVX-512 VNNI"
#else
#define SIMD_NAME "AVX-512"
#endif
typedef __m512 vf;
typedef __m512i vi;
typedef __m512i vb;
typedef __mmask16 vm;
#define vf_load(p) _mm512_loadu_ps(p)
#define vf_store(p, v) _mm512_storeu_ps(p, v)
#define vf_set1(x) _mm512_set1_ps(x)
#define vf_add(a, b) _mm512_add_ps(a, b)
#define vf_sub(a, b) _mm512_sub_ps(a, b)
#define vf_mul(a, b) _mm512_mul_ps(a, b)
#define vf_div(a, b) _mm512_div_ps(a, b)
#define vf_sqrt(a) _mm512_sqrt_ps(a)
#define vf_round(a) _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define vf_scale(a, n) \
  _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(n, _mm512_set1_ps(-127.f), _CMP_GT_OQ), a, n)
#define vf_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define vf_max(a, b) _mm512_max_ps(a, b)
#define vf_min(a, b) _mm512_min_ps(a, b)
#define vf_from_vi(a) _mm512_cvtepi32_ps(a)
#define vf_from_bits(a) _mm512_castsi512_ps(a)
#define vf_blend(m, a, b) _mm512_mask_blend_ps(m, b, a)
#define vf_load_f16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
INLINE void vf_store_f16(uint16_t *p, vf v) {
  v = _mm512_min_ps(_mm512_max_ps(v, _mm512_set1_ps(-65504.f)), _mm512_set1_ps(65504.f));
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#define vi_load(p) _mm512_loadu_si512(p)
#define vi_store(p, v) _mm512_storeu_si512(p, v)
#define vi_set1(x) _mm512_set1_epi32(x)
#define vi_add(a, b) _mm512_add_epi32(a, b)
#define vi_sub(a, b) _mm512_sub_epi32(a, b)
#define vi_and(a, b) _mm512_and_si512(a, b)
#define vi_or(a, b) _mm512_or_si512(a, b)
#define vi_shl(a, n) _mm512_slli_epi32(a, n)
#define vi_shr(a, n) _mm512_srli_epi32(a, n)
#define vi_gt(a, b) _mm512_cmpgt_epi32_mask(a, b)
#define vi_round_vf(a) _mm512_cvtps_epi32(a)
#define vi_from_bits(a) _mm512_castps_si512(a)
#define vi_load_i8(p) _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define vi_load_u8(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define vi_load_u16(p) _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p)))
INLINE void vi_store_i8(int8_t *p, vi v) { _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(v)); }
#define vm_and(a, b) ((vm)((a) & (b)))
#define vm_any(a) ((a) != 0)
#define vm_bits(a) ((uint32_t)(a))
#define vb_load(p) _mm512_loadu_si512(p)
#define vb_set1(x) _mm512_set1_epi8((char)(x))
#define vb_and(a, b) _mm512_and_si512(a, b)
#define vb_or(a, b) _mm512_or_si512(a, b)
#define vb_xor(a, b) _mm512_xor_si512(a, b)
#define vb_shr16(a, n) _mm512_srli_epi16(a, n)
#define vb_shl16(a, n) _mm512_slli_epi16(a, n)
#define vb_lut16(t, a) _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(t))), a)
#define vb_set4(p) _mm512_set1_epi32(*(const int32_t *)(p))
INLINE float vf_reduce_add(vf v) { return _mm512_reduce_add_ps(v); }
INLINE float vf_reduce_max(vf v) { return _mm512_reduce_max_ps(v); }
INLINE int32_t vi_reduce_add(vi v) { return _mm512_reduce_add_epi32(v); }
typedef vi vdot;
#define vdot_from(v) (v)
#define vdot_finish(v) (v)
#ifdef __AVX512VNNI__
#define vdot_u7(acc, w, a) _mm512_dpbusd_epi32(acc, w, a)
#define vdot_u8(acc, w, a) _mm512_dpbusd_epi32(acc, w, a)
#else
INLINE vdot vdot_u7(vdot acc, vb w, vb a) {
  return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(w, a), _mm512_set1_epi16(1)));
}
INLINE vdot vdot_u8(vdot acc, vb w, vb a) {  // maddubs would saturate: even and odd bytes as 16-bit numbers
  vi even = _mm512_madd_epi16(_mm512_and_si512(w, _mm512_set1_epi16(255)),
                              _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8));
  vi odd = _mm512_madd_epi16(_mm512_srli_epi16(w, 8), _mm512_srai_epi16(a, 8));
  return _mm512_add_epi32(acc, _mm512_add_epi32(even, odd));
}
#endif

// ------------------------------------------------------------------------------------------------------- AVX2
#elif !defined(MILL_SCALAR) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define W 8
#ifdef __AVXVNNI__
#define SIMD_NAME "AVX2 VNNI"
#else
#define SIMD_NAME "AVX2"
#endif
typedef __m256 vf;
typedef __m256i vi;
typedef __m256i vb;
typedef __m256i vm;
#define vf_load(p) _mm256_loadu_ps(p)
#define vf_store(p, v) _mm256_storeu_ps(p, v)
#define vf_set1(x) _mm256_set1_ps(x)
#define vf_add(a, b) _mm256_add_ps(a, b)
#define vf_sub(a, b) _mm256_sub_ps(a, b)
#define vf_mul(a, b) _mm256_mul_ps(a, b)
#define vf_div(a, b) _mm256_div_ps(a, b)
#define vf_sqrt(a) _mm256_sqrt_ps(a)
#define vf_round(a) _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define vf_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define vf_max(a, b) _mm256_max_ps(a, b)
#define vf_min(a, b) _mm256_min_ps(a, b)
#define vf_from_vi(a) _mm256_cvtepi32_ps(a)
#define vf_from_bits(a) _mm256_castsi256_ps(a)
#define vf_blend(m, a, b) _mm256_blendv_ps(b, a, _mm256_castsi256_ps(m))
#define vf_load_f16(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
INLINE void vf_store_f16(uint16_t *p, vf v) {
  v = _mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(-65504.f)), _mm256_set1_ps(65504.f));
  _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#define vi_load(p) _mm256_loadu_si256((const __m256i *)(p))
#define vi_store(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define vi_set1(x) _mm256_set1_epi32(x)
#define vi_add(a, b) _mm256_add_epi32(a, b)
#define vi_sub(a, b) _mm256_sub_epi32(a, b)
#define vi_and(a, b) _mm256_and_si256(a, b)
#define vi_or(a, b) _mm256_or_si256(a, b)
#define vi_shl(a, n) _mm256_slli_epi32(a, n)
#define vi_shr(a, n) _mm256_srli_epi32(a, n)
#define vi_gt(a, b) _mm256_cmpgt_epi32(a, b)
#define vi_round_vf(a) _mm256_cvtps_epi32(a)
#define vi_from_bits(a) _mm256_castps_si256(a)
#define vi_load_i8(p) _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define vi_load_u8(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define vi_load_u16(p) _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p)))
INLINE void vi_store_i8(int8_t *p, vi v) {
  __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(h, h));
}
#define vm_and(a, b) _mm256_and_si256(a, b)
#define vm_any(a) (!_mm256_testz_si256(a, a))
#define vm_bits(a) ((uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(a)))
#define vb_load(p) _mm256_loadu_si256((const __m256i *)(p))
#define vb_set1(x) _mm256_set1_epi8((char)(x))
#define vb_and(a, b) _mm256_and_si256(a, b)
#define vb_or(a, b) _mm256_or_si256(a, b)
#define vb_xor(a, b) _mm256_xor_si256(a, b)
#define vb_shr16(a, n) _mm256_srli_epi16(a, n)
#define vb_shl16(a, n) _mm256_slli_epi16(a, n)
#define vb_lut16(t, a) _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(t))), a)
#define vb_set4(p) _mm256_set1_epi32(*(const int32_t *)(p))
INLINE float vf_reduce_add(vf v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float vf_reduce_max(vf v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
INLINE int32_t vi_reduce_add(vi v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
typedef vi vdot;
#define vdot_from(v) (v)
#define vdot_finish(v) (v)
#ifdef __AVXVNNI__
#define vdot_u7(acc, w, a) _mm256_dpbusd_avx_epi32(acc, w, a)
#define vdot_u8(acc, w, a) _mm256_dpbusd_avx_epi32(acc, w, a)
#else
INLINE vdot vdot_u7(vdot acc, vb w, vb a) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
}
INLINE vdot vdot_u8(vdot acc, vb w, vb a) {  // maddubs would saturate: even and odd bytes as 16-bit numbers
  vi even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)),
                              _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8));
  vi odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(a, 8));
  return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
#define HAS_NARROW_DOT
typedef struct {
  vi whole, narrow;
} vdot4;
INLINE vdot4 vdot4_from(vi v) { return (vdot4){v, _mm256_setzero_si256()}; }
INLINE vdot4 vdot4_add(vdot4 d, vb w, vb a) {
  d.narrow = _mm256_add_epi16(d.narrow, _mm256_maddubs_epi16(w, a));
  return d;
}
INLINE vi vdot4_finish(vdot4 d) {
  return _mm256_add_epi32(d.whole, _mm256_madd_epi16(d.narrow, _mm256_set1_epi16(1)));
}
#endif

// ------------------------------------------------------------------------------------------------------- NEON
#elif !defined(MILL_SCALAR) && defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#define W 4
#define SIMD_NAME "NEON"
typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint8x16_t vb;
typedef uint32x4_t vm;
#define vf_load(p) vld1q_f32(p)
#define vf_store(p, v) vst1q_f32(p, v)
#define vf_set1(x) vdupq_n_f32(x)
#define vf_add(a, b) vaddq_f32(a, b)
#define vf_sub(a, b) vsubq_f32(a, b)
#define vf_mul(a, b) vmulq_f32(a, b)
#define vf_div(a, b) vdivq_f32(a, b)
#define vf_sqrt(a) vsqrtq_f32(a)
#define vf_round(a) vrndnq_f32(a)
#define vf_fma(a, b, c) vfmaq_f32(c, a, b)
#define vf_max(a, b) vmaxq_f32(a, b)
#define vf_min(a, b) vminq_f32(a, b)
#define vf_from_vi(a) vcvtq_f32_s32(a)
#define vf_from_bits(a) vreinterpretq_f32_s32(a)
#define vf_blend(m, a, b) vbslq_f32(m, a, b)
#define vf_load_f16(p) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))
INLINE void vf_store_f16(uint16_t *p, vf v) {
  v = vminq_f32(vmaxq_f32(v, vdupq_n_f32(-65504.f)), vdupq_n_f32(65504.f));
  vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}
#define vi_load(p) vld1q_s32(p)
#define vi_store(p, v) vst1q_s32(p, v)
#define vi_set1(x) vdupq_n_s32(x)
#define vi_add(a, b) vaddq_s32(a, b)
#define vi_sub(a, b) vsubq_s32(a, b)
#define vi_and(a, b) vandq_s32(a, b)
#define vi_or(a, b) vorrq_s32(a, b)
#define vi_shl(a, n) vshlq_n_s32(a, n)
#define vi_shr(a, n) vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), n))
#define vi_gt(a, b) vcgtq_s32(a, b)
#define vi_round_vf(a) vcvtnq_s32_f32(a)
#define vi_from_bits(a) vreinterpretq_s32_f32(a)
INLINE vi vi_load_i8(const int8_t *p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(x)))));
}
INLINE vi vi_load_u8(const uint8_t *p) {
  uint32_t x;
  __builtin_memcpy(&x, p, 4);
  return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(x))))));
}
#define vi_load_u16(p) vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p)))
INLINE void vi_store_i8(int8_t *p, vi v) {
  int16x4_t h = vqmovn_s32(v);
  int32_t x = vget_lane_s32(vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(h, h))), 0);
  __builtin_memcpy(p, &x, 4);
}
#define vm_and(a, b) vandq_u32(a, b)
#define vm_any(a) (vmaxvq_u32(a) != 0)
#define vm_bits(a) vaddvq_u32(vandq_u32(a, (uint32x4_t){1, 2, 4, 8}))
#define vb_load(p) vld1q_u8((const uint8_t *)(p))
#define vb_set1(x) vdupq_n_u8((uint8_t)(x))
#define vb_and(a, b) vandq_u8(a, b)
#define vb_or(a, b) vorrq_u8(a, b)
#define vb_xor(a, b) veorq_u8(a, b)
#define vb_shr16(a, n) vreinterpretq_u8_u16(vshrq_n_u16(vreinterpretq_u16_u8(a), n))
#define vb_shl16(a, n) vreinterpretq_u8_u16(vshlq_n_u16(vreinterpretq_u16_u8(a), n))
#define vb_lut16(t, a) vqtbl1q_u8(vld1q_u8(t), a)
INLINE vb vb_set4(const int8_t *p) {
  uint32_t x;
  __builtin_memcpy(&x, p, 4);
  return vreinterpretq_u8_u32(vdupq_n_u32(x));
}
INLINE float vf_reduce_add(vf v) { return vaddvq_f32(v); }
INLINE float vf_reduce_max(vf v) { return vmaxvq_f32(v); }
INLINE int32_t vi_reduce_add(vi v) { return vaddvq_s32(v); }
typedef vi vdot;
#define vdot_from(v) (v)
#define vdot_finish(v) (v)
INLINE vi neon_sdot(vi acc, int8x16_t w, int8x16_t a) {
#ifdef __ARM_FEATURE_DOTPROD
  return vdotq_s32(acc, w, a);
#else
  int16x8_t lo = vmull_s8(vget_low_s8(w), vget_low_s8(a)), hi = vmull_s8(vget_high_s8(w), vget_high_s8(a));
  return vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(lo), vpaddlq_s16(hi)));
#endif
}
INLINE vdot vdot_u7(vdot acc, vb w, vb a) {
  return neon_sdot(acc, vreinterpretq_s8_u8(w), vreinterpretq_s8_u8(a));
}
INLINE vdot vdot_u8(vdot acc, vb w, vb a) {  // (w - 128) . a + 64 . a + 64 . a
  int8x16_t as = vreinterpretq_s8_u8(a), half = vdupq_n_s8(64);
  acc = neon_sdot(acc, vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(128))), as);
  return neon_sdot(neon_sdot(acc, half, as), half, as);
}

// ------------------------------------------------------------------------------------------------ WebAssembly
#elif !defined(MILL_SCALAR) && defined(__wasm_simd128__)
#include <wasm_simd128.h>
#define W 4
#ifdef __wasm_relaxed_simd__
#define SIMD_NAME "WebAssembly relaxed SIMD"
#else
#define SIMD_NAME "WebAssembly SIMD"
#endif
typedef v128_t vf;
typedef v128_t vi;
typedef v128_t vb;
typedef v128_t vm;
#define vf_load(p) wasm_v128_load(p)
#define vf_store(p, v) wasm_v128_store(p, v)
#define vf_set1(x) wasm_f32x4_splat(x)
#define vf_add(a, b) wasm_f32x4_add(a, b)
#define vf_sub(a, b) wasm_f32x4_sub(a, b)
#define vf_mul(a, b) wasm_f32x4_mul(a, b)
#define vf_div(a, b) wasm_f32x4_div(a, b)
#define vf_sqrt(a) wasm_f32x4_sqrt(a)
#define vf_round(a) wasm_f32x4_nearest(a)
#ifdef __wasm_relaxed_simd__
#define vf_fma(a, b, c) wasm_f32x4_relaxed_madd(a, b, c)
#else
#define vf_fma(a, b, c) wasm_f32x4_add(wasm_f32x4_mul(a, b), c)
#endif
// pmax/pmin are one instruction on x86, where max and min are seven; the operands here are never NaN.
#define vf_max(a, b) wasm_f32x4_pmax(a, b)
#define vf_min(a, b) wasm_f32x4_pmin(a, b)
#define vf_from_vi(a) wasm_f32x4_convert_i32x4(a)
#define vf_from_bits(a) (a)
#define vf_blend(m, a, b) wasm_v128_bitselect(a, b, m)
// Infinities and NaN come out as large numbers: stores saturate, so pages and scales never hold them. Sign extension
// brings a copy of the sign to the top; the mask drops the copies between it and the exponent.
INLINE vf vf_load_f16(const uint16_t *p) {
  v128_t h = wasm_v128_and(wasm_i32x4_shl(wasm_i32x4_load16x4(p), 13), wasm_i32x4_const_splat((int)0x8fffe000));
  return wasm_f32x4_mul(h, wasm_f32x4_const_splat(0x1p112f));
}
INLINE void vf_store_f16(uint16_t *p, vf v) {
  p[0] = f32_to_f16(wasm_f32x4_extract_lane(v, 0));
  p[1] = f32_to_f16(wasm_f32x4_extract_lane(v, 1));
  p[2] = f32_to_f16(wasm_f32x4_extract_lane(v, 2));
  p[3] = f32_to_f16(wasm_f32x4_extract_lane(v, 3));
}
#define vi_load(p) wasm_v128_load(p)
#define vi_store(p, v) wasm_v128_store(p, v)
#define vi_set1(x) wasm_i32x4_splat(x)
#define vi_add(a, b) wasm_i32x4_add(a, b)
#define vi_sub(a, b) wasm_i32x4_sub(a, b)
#define vi_and(a, b) wasm_v128_and(a, b)
#define vi_or(a, b) wasm_v128_or(a, b)
#define vi_shl(a, n) wasm_i32x4_shl(a, n)
#define vi_shr(a, n) wasm_u32x4_shr(a, n)
#define vi_gt(a, b) wasm_i32x4_gt(a, b)
#define vi_round_vf(a) wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(a))
#define vi_from_bits(a) (a)
#define vi_load_i8(p) wasm_i32x4_extend_low_i16x8(wasm_i16x8_extend_low_i8x16(wasm_v128_load32_zero(p)))
#define vi_load_u8(p) wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(p)))
#define vi_load_u16(p) wasm_u32x4_load16x4(p)
INLINE void vi_store_i8(int8_t *p, vi v) {
  v128_t h = wasm_i16x8_narrow_i32x4(v, v);
  wasm_v128_store32_lane(p, wasm_i8x16_narrow_i16x8(h, h), 0);
}
#define vm_and(a, b) wasm_v128_and(a, b)
#define vm_any(a) wasm_v128_any_true(a)
#define vm_bits(a) ((uint32_t)wasm_i32x4_bitmask(a))
#define vb_load(p) wasm_v128_load(p)
#define vb_set1(x) wasm_u8x16_splat((uint8_t)(x))
#define vb_and(a, b) wasm_v128_and(a, b)
#define vb_or(a, b) wasm_v128_or(a, b)
#define vb_xor(a, b) wasm_v128_xor(a, b)
#define vb_shr16(a, n) wasm_u16x8_shr(a, n)
#define vb_shl16(a, n) wasm_i16x8_shl(a, n)
#ifdef __wasm_relaxed_simd__
#define vb_lut16(t, a) wasm_i8x16_relaxed_swizzle(wasm_v128_load(t), a)
#else
#define vb_lut16(t, a) wasm_i8x16_swizzle(wasm_v128_load(t), a)
#endif
#define vb_set4(p) wasm_v128_load32_splat(p)
INLINE float vf_reduce_add(vf v) {
  v = wasm_f32x4_add(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  return wasm_f32x4_extract_lane(v, 0) + wasm_f32x4_extract_lane(v, 1);
}
INLINE float vf_reduce_max(vf v) {
  v = wasm_f32x4_pmax(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  float a = wasm_f32x4_extract_lane(v, 0), b = wasm_f32x4_extract_lane(v, 1);
  return a > b ? a : b;
}
INLINE int32_t vi_reduce_add(vi v) {
  v = wasm_i32x4_add(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  return wasm_i32x4_extract_lane(v, 0) + wasm_i32x4_extract_lane(v, 1);
}
// i16x8 dot products come out as sums of pairs; the two halves are joined once per block, in vdot_finish.
typedef struct {
  v128_t whole, low, high;
} vdot;
INLINE vdot vdot_from(vi v) { return (vdot){v, wasm_i32x4_const_splat(0), wasm_i32x4_const_splat(0)}; }
INLINE vi vdot_finish(vdot d) {
  return wasm_i32x4_add(d.whole, wasm_i32x4_add(wasm_i32x4_shuffle(d.low, d.high, 0, 2, 4, 6),
                                                wasm_i32x4_shuffle(d.low, d.high, 1, 3, 5, 7)));
}
INLINE vdot vdot_u8(vdot d, vb w, vb a) {
  d.low = wasm_i32x4_add(
      d.low, wasm_i32x4_dot_i16x8(wasm_u16x8_extend_low_u8x16(w), wasm_i16x8_extend_low_i8x16(a)));
  d.high = wasm_i32x4_add(
      d.high, wasm_i32x4_dot_i16x8(wasm_u16x8_extend_high_u8x16(w), wasm_i16x8_extend_high_i8x16(a)));
  return d;
}
#ifdef __wasm_relaxed_simd__
INLINE vdot vdot_u7(vdot d, vb w, vb a) {
  d.whole = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(a, w, d.whole);
  return d;
}
#else
#define vdot_u7(d, w, a) vdot_u8(d, w, a)
#endif
#ifdef __wasm_relaxed_simd__
#define HAS_NARROW_DOT
typedef struct {
  v128_t whole, narrow;
} vdot4;
INLINE vdot4 vdot4_from(vi v) { return (vdot4){v, wasm_i32x4_const_splat(0)}; }
INLINE vdot4 vdot4_add(vdot4 d, vb w, vb a) {
  d.narrow = wasm_i16x8_add(d.narrow, wasm_i16x8_relaxed_dot_i8x16_i7x16(a, w));
  return d;
}
INLINE vi vdot4_finish(vdot4 d) { return wasm_i32x4_add(d.whole, wasm_i32x4_extadd_pairwise_i16x8(d.narrow)); }
#endif

// ----------------------------------------------------------------------------------------------------- scalar
#else
#define W 1
#define SIMD_NAME "scalar"
typedef float vf;
typedef int32_t vi;
typedef uint32_t vb;
typedef int32_t vm;
INLINE uint32_t scalar_load(const void *p) {
  uint32_t u;
  __builtin_memcpy(&u, p, 4);
  return u;
}
INLINE void scalar_store(void *p, uint32_t u) { __builtin_memcpy(p, &u, 4); }
#define vf_load(p) bits_to_f32(scalar_load(p))
#define vf_store(p, v) scalar_store(p, f32_to_bits(v))
#define vf_set1(x) (x)
#define vf_add(a, b) ((a) + (b))
#define vf_sub(a, b) ((a) - (b))
#define vf_mul(a, b) ((a) * (b))
#define vf_div(a, b) ((a) / (b))
#define vf_sqrt(a) __builtin_sqrtf(a)
#define vf_round(a) (((a) + 12582912.f) - 12582912.f)
#define vf_fma(a, b, c) ((a) * (b) + (c))
#define vf_max(a, b) ((a) > (b) ? (a) : (b))
#define vf_min(a, b) ((a) < (b) ? (a) : (b))
#define vf_from_vi(a) ((float)(a))
#define vf_from_bits(a) bits_to_f32((uint32_t)(a))
#define vf_blend(m, a, b) ((m) ? (a) : (b))
#define vf_load_f16(p) f16_to_f32(*(p))
INLINE void vf_store_f16(uint16_t *p, vf v) { *p = f32_to_f16(v); }
#define vi_load(p) ((int32_t)scalar_load(p))
#define vi_store(p, v) scalar_store(p, (uint32_t)(v))
#define vi_set1(x) (x)
#define vi_add(a, b) ((int32_t)((uint32_t)(a) + (uint32_t)(b)))
#define vi_sub(a, b) ((int32_t)((uint32_t)(a) - (uint32_t)(b)))
#define vi_and(a, b) ((a) & (b))
#define vi_or(a, b) ((a) | (b))
#define vi_shl(a, n) ((int32_t)((uint32_t)(a) << (n)))
#define vi_shr(a, n) ((int32_t)((uint32_t)(a) >> (n)))
#define vi_gt(a, b) (-((a) > (b)))
INLINE vi vi_round_vf(vf a) {  // to nearest even, for |a| < 2^22
  float r = (a + 12582912.f) - 12582912.f;
  return (int32_t)r;
}
#define vi_from_bits(a) ((int32_t)f32_to_bits(a))
#define vi_load_i8(p) ((int32_t) * (const int8_t *)(p))
#define vi_load_u8(p) ((int32_t) * (const uint8_t *)(p))
#define vi_load_u16(p) ((int32_t) * (const uint16_t *)(p))
INLINE void vi_store_i8(int8_t *p, vi v) { *p = (int8_t)(v > 127 ? 127 : v < -128 ? -128 : v); }
#define vm_and(a, b) ((a) & (b))
#define vm_any(a) ((a) != 0)
#define vm_bits(a) ((uint32_t)((a) & 1))
#define vb_load(p) scalar_load(p)
#define vb_set1(x) (0x01010101u * (uint8_t)(x))
#define vb_and(a, b) ((a) & (b))
#define vb_or(a, b) ((a) | (b))
#define vb_xor(a, b) ((a) ^ (b))
INLINE vb vb_shr16(vb a, int n) {
  return ((a & 0xffff) >> n) | (((a >> 16) >> n) << 16);
}
INLINE vb vb_shl16(vb a, int n) {
  return ((a << n) & 0xffff) | (((a >> 16) << n) << 16);
}
INLINE vb vb_lut16(const uint8_t *t, vb a) {
  return (uint32_t)t[a & 15] | (uint32_t)t[(a >> 8) & 15] << 8 | (uint32_t)t[(a >> 16) & 15] << 16 |
         (uint32_t)t[(a >> 24) & 15] << 24;
}
#define vb_set4(p) scalar_load(p)
#define vf_reduce_add(v) (v)
#define vf_reduce_max(v) (v)
#define vi_reduce_add(v) (v)
typedef vi vdot;
#define vdot_from(v) (v)
#define vdot_finish(v) (v)
INLINE vdot vdot_u8(vdot acc, vb w, vb a) {
  for (int i = 0; i < 32; i += 8) acc += (int32_t)((w >> i) & 255) * (int32_t)(int8_t)((a >> i) & 255);
  return acc;
}
#define vdot_u7(acc, w, a) vdot_u8(acc, w, a)
#endif

// a * 2^n for a in 0.7 .. 1.5 and a whole n in -127 .. 127; 0 for n = -127.
#ifndef vf_scale
INLINE vf vf_scale(vf a, vf n) {
  vi exponent = vi_round_vf(n);
  vf scaled = vf_from_bits(vi_add(vi_from_bits(a), vi_shl(exponent, 23)));
  return vf_blend(vi_gt(exponent, vi_set1(-127)), scaled, vf_set1(0.f));
}
#endif

// Dot products of codes below 16, for up to 8 quads between `from` and `finish`: targets that multiply bytes to
// 16-bit pairs add those up (8 x 2 x 15 x 127 < 2^15) and widen once.
#ifndef HAS_NARROW_DOT
typedef vdot vdot4;
#define vdot4_from(v) vdot_from(v)
#define vdot4_add(d, w, a) vdot_u7(d, w, a)
#define vdot4_finish(d) vdot_finish(d)
#endif

// ------------------------------------------------------------------------------------------ lifting to 16 lanes
#if W == 16
#define EACH(X) X(0)
#elif W == 8
#define EACH(X) X(0) X(1)
#elif W == 4
#define EACH(X) X(0) X(1) X(2) X(3)
#else
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#endif

typedef struct {
#define X(i) vf r##i;
  EACH(X)
#undef X
} f32x16;

typedef struct {
#define X(i) vi r##i;
  EACH(X)
#undef X
} i32x16;

typedef struct {
#define X(i) vb r##i;
  EACH(X)
#undef X
} u8x64;

typedef struct {
#define X(i) vm r##i;
  EACH(X)
#undef X
} mask16;

typedef struct {
#define X(i) vdot r##i;
  EACH(X)
#undef X
} dot16;

#define LIFT0(name, R, parameters, expression) \
  INLINE R name parameters {                   \
    R out;                                     \
    expression;                                \
    return out;                                \
  }

#define X(i) out.r##i = vf_set1(x);
LIFT0(f32x16_set1, f32x16, (float x), EACH(X))
#undef X
#define X(i) out.r##i = vf_load(p + i * W);
LIFT0(f32x16_load, f32x16, (const float *p), EACH(X))
#undef X
#define X(i) out.r##i = vf_add(a.r##i, b.r##i);
LIFT0(f32x16_add, f32x16, (f32x16 a, f32x16 b), EACH(X))
#undef X
#define X(i) out.r##i = vf_sub(a.r##i, b.r##i);
LIFT0(f32x16_sub, f32x16, (f32x16 a, f32x16 b), EACH(X))
#undef X
#define X(i) out.r##i = vf_mul(a.r##i, b.r##i);
LIFT0(f32x16_mul, f32x16, (f32x16 a, f32x16 b), EACH(X))
#undef X
#define X(i) out.r##i = vf_div(a.r##i, b.r##i);
LIFT0(f32x16_div, f32x16, (f32x16 a, f32x16 b), EACH(X))
#undef X
#define X(i) out.r##i = vf_sqrt(a.r##i);
LIFT0(f32x16_sqrt, f32x16, (f32x16 a), EACH(X))
#undef X
// to a whole number, ties to even; |a| must be below 2^22
#define X(i) out.r##i = vf_round(a.r##i);
LIFT0(f32x16_round, f32x16, (f32x16 a), EACH(X))
#undef X
// a * 2^n for a in 0.7 .. 1.5 and a whole n in -127 .. 127; 0 for n = -127
#define X(i) out.r##i = vf_scale(a.r##i, n.r##i);
LIFT0(f32x16_scale, f32x16, (f32x16 a, f32x16 n), EACH(X))
#undef X
// a * b + c, fused where the target has it
#define X(i) out.r##i = vf_fma(a.r##i, b.r##i, c.r##i);
LIFT0(f32x16_fma, f32x16, (f32x16 a, f32x16 b, f32x16 c), EACH(X))
#undef X
#define X(i) out.r##i = vf_max(a.r##i, b.r##i);
LIFT0(f32x16_max, f32x16, (f32x16 a, f32x16 b), EACH(X))
#undef X
#define X(i) out.r##i = vf_min(a.r##i, b.r##i);
LIFT0(f32x16_min, f32x16, (f32x16 a, f32x16 b), EACH(X))
#undef X
#define X(i) out.r##i = vf_from_vi(a.r##i);
LIFT0(f32x16_from_i32, f32x16, (i32x16 a), EACH(X))
#undef X
#define X(i) out.r##i = vf_from_bits(a.r##i);
LIFT0(f32x16_from_bits, f32x16, (i32x16 a), EACH(X))
#undef X
// m ? a : b
#define X(i) out.r##i = vf_blend(m.r##i, a.r##i, b.r##i);
LIFT0(f32x16_blend, f32x16, (mask16 m, f32x16 a, f32x16 b), EACH(X))
#undef X
#define X(i) out.r##i = vf_load_f16(p + i * W);
LIFT0(f32x16_load_f16, f32x16, (const uint16_t *p), EACH(X))
#undef X
#define X(i) out.r##i = vf_from_vi(vi_load_i8(p + i * W));
LIFT0(f32x16_load_i8, f32x16, (const int8_t *p), EACH(X))
#undef X
INLINE f32x16 f32x16_zero(void) { return f32x16_set1(0.f); }
INLINE void f32x16_store(float *p, f32x16 a) {
#define X(i) vf_store(p + i * W, a.r##i);
  EACH(X)
#undef X
}
// The first n < 16 lanes of memory; the others are 0, and stay untouched.
INLINE f32x16 f32x16_load_part(const float *p, int n) {
  float lanes[16] = {0};
  for (int i = 0; i < n; i++) lanes[i] = p[i];
  return f32x16_load(lanes);
}
INLINE void f32x16_store_part(float *p, f32x16 a, int n) {
  float lanes[16];
  f32x16_store(lanes, a);
  for (int i = 0; i < n; i++) p[i] = lanes[i];
}
INLINE void f32x16_store_f16(uint16_t *p, f32x16 a) {
#define X(i) vf_store_f16(p + i * W, a.r##i);
  EACH(X)
#undef X
}
#if W == 16
#define REDUCE(op, step, v) step(v.r0)
#elif W == 8
#define REDUCE(op, step, v) step(op(v.r0, v.r1))
#elif W == 4
#define REDUCE(op, step, v) step(op(op(v.r0, v.r1), op(v.r2, v.r3)))
#else
#define REDUCE4(op, a, b, c, d) op(op(a, b), op(c, d))
#define REDUCE(op, step, v)                                                            \
  step(REDUCE4(op, (REDUCE4(op, v.r0, v.r1, v.r2, v.r3)), (REDUCE4(op, v.r4, v.r5, v.r6, v.r7)), \
               (REDUCE4(op, v.r8, v.r9, v.r10, v.r11)), (REDUCE4(op, v.r12, v.r13, v.r14, v.r15))))
#endif
INLINE float f32x16_reduce_add(f32x16 a) { return REDUCE(vf_add, vf_reduce_add, a); }
INLINE float f32x16_reduce_max(f32x16 a) { return REDUCE(vf_max, vf_reduce_max, a); }

#define X(i) out.r##i = vi_set1(x);
LIFT0(i32x16_set1, i32x16, (int32_t x), EACH(X))
#undef X
#define X(i) out.r##i = vi_load(p + i * W);
LIFT0(i32x16_load, i32x16, (const int32_t *p), EACH(X))
#undef X
#define X(i) out.r##i = vi_add(a.r##i, b.r##i);
LIFT0(i32x16_add, i32x16, (i32x16 a, i32x16 b), EACH(X))
#undef X
#define X(i) out.r##i = vi_sub(a.r##i, b.r##i);
LIFT0(i32x16_sub, i32x16, (i32x16 a, i32x16 b), EACH(X))
#undef X
#define X(i) out.r##i = vi_and(a.r##i, b.r##i);
LIFT0(i32x16_and, i32x16, (i32x16 a, i32x16 b), EACH(X))
#undef X
#define X(i) out.r##i = vi_or(a.r##i, b.r##i);
LIFT0(i32x16_or, i32x16, (i32x16 a, i32x16 b), EACH(X))
#undef X
// to nearest, ties to even; |a| must be below 2^22
#define X(i) out.r##i = vi_round_vf(a.r##i);
LIFT0(i32x16_round, i32x16, (f32x16 a), EACH(X))
#undef X
#define X(i) out.r##i = vi_from_bits(a.r##i);
LIFT0(i32x16_from_bits, i32x16, (f32x16 a), EACH(X))
#undef X
#define X(i) out.r##i = vi_gt(a.r##i, b.r##i);
LIFT0(i32x16_gt, mask16, (i32x16 a, i32x16 b), EACH(X))
#undef X
#define X(i) out.r##i = vm_and(a.r##i, b.r##i);
LIFT0(mask16_and, mask16, (mask16 a, mask16 b), EACH(X))
#undef X
// n must be a constant
#define i32x16_shl(a, n) i32x16_shift_left(a, n)
#define X(i) out.r##i = vi_shl(a.r##i, n);
LIFT0(i32x16_shift_left, i32x16, (i32x16 a, const int n), EACH(X))
#undef X
// logical; n must be a constant
#define i32x16_shr(a, n) i32x16_shift_right(a, n)
#define X(i) out.r##i = vi_shr(a.r##i, n);
LIFT0(i32x16_shift_right, i32x16, (i32x16 a, const int n), EACH(X))
#undef X
INLINE void i32x16_store(int32_t *p, i32x16 a) {
#define X(i) vi_store(p + i * W, a.r##i);
  EACH(X)
#undef X
}
// saturates to -128 .. 127
INLINE void i32x16_store_i8(int8_t *p, i32x16 a) {
#define X(i) vi_store_i8(p + i * W, a.r##i);
  EACH(X)
#undef X
}
INLINE int32_t i32x16_reduce_add(i32x16 a) { return REDUCE(vi_add, vi_reduce_add, a); }
// Bit l is set where lane l is.
INLINE uint32_t mask16_bits(mask16 a) {
  uint32_t bits = 0;
#define X(i) bits |= vm_bits(a.r##i) << (i * W);
  EACH(X)
#undef X
  return bits;
}
INLINE int mask16_any(mask16 a) {
  int any = 0;
#define X(i) any |= vm_any(a.r##i);
  EACH(X)
#undef X
  return any;
}

#define X(i) out.r##i = vb_load(p + i * W * 4);
LIFT0(u8x64_load, u8x64, (const uint8_t *p), EACH(X))
#undef X
#define X(i) out.r##i = vb_and(a.r##i, vb_set1(m));
LIFT0(u8x64_mask, u8x64, (u8x64 a, const int m), EACH(X))
#undef X

// Lane sums of four byte products: acc[l] += sum over j of w[l][j] * a[j], a the four signed bytes at `a`.
// Every byte of w is below 128; activations lie in -127 .. 127.
#define X(i) out.r##i = vdot_from(a.r##i);
LIFT0(dot16_from, dot16, (i32x16 a), EACH(X))
#undef X
#define X(i) out.r##i = vdot_finish(a.r##i);
LIFT0(dot16_finish, i32x16, (dot16 a), EACH(X))
#undef X
#define X(i) out.r##i = vdot_u7(acc.r##i, w.r##i, broadcast);
LIFT0(dot16_u7, dot16, (dot16 acc, u8x64 w, const int8_t *a), vb broadcast = vb_set4(a); EACH(X))
#undef X

#endif
