// Sixteen float lanes, whatever the machine: one AVX-512 register, two AVX2 registers, or four of 128 bits (SSE2, NEON). One 4×4
// block of pixels, or sixteen Gaussians. Overloads the functions of portable.h, so the shared mathematics runs on it. The lanes come from
// simd_avx512.h or simd_composed.h, their ways to and from memory from simd_rows.h.
#pragma once
#include <string.h>

#include "../include/portable.h"

#if AV_ISA >= 256
#include <immintrin.h>
#endif

#define AV_INLINE inline __attribute__((always_inline))
#define AV_OUTLINE static __attribute__((noinline))  // large and called once per sixteen items

#if AV_ISA >= 512
#include "simd_avx512.h"
#else
#include "simd_composed.h"
#endif

namespace av {
inline namespace AV_NS {

AV_INLINE F16& operator+=(F16& a, F16 b) { return a = a + b; }
AV_INLINE F16& operator-=(F16& a, F16 b) { return a = a - b; }
AV_INLINE M16 finite_(F16 a) { return abs_(a) <= F16(3.402823466e38f); }

template <>
struct MaskOf<F16> {
    typedef M16 type;
};

// 2^x for x in [-126, 127], relative error 2e-7 (degree 5, minimax on [-½, ½]).
AV_INLINE F16 exp2_(F16 x) {
    const F16 n = round_(x), f = x - n;
    F16 p = F16(1.3333558146e-3f);
    p = fma_(p, f, F16(9.6181291920e-3f));
    p = fma_(p, f, F16(5.5504108664e-2f));
    p = fma_(p, f, F16(2.4022650696e-1f));
    p = fma_(p, f, F16(6.9314718056e-1f));
    p = fma_(p, f, F16(1.0f));
    return scale2_(p, n);
}

// log2 of positive normal x, absolute error 2e-7: 2·atanh((m-1)/(m+1)) after moving m into [√½, √2).
AV_INLINE F16 log2_(F16 x) {
    F16 e, m;
    split_exponent(x, e, m);
    const M16 high = m > F16(1.41421356f);
    m = select(high, m * F16(0.5f), m);
    e = select(high, e + F16(1.0f), e);
    const F16 s = (m - F16(1.0f)) / (m + F16(1.0f)), q = s * s;
    F16 p = F16(0.3205988980f);
    p = fma_(p, q, F16(0.4121985831f));
    p = fma_(p, q, F16(0.5770780164f));
    p = fma_(p, q, F16(0.9617966939f));
    p = fma_(p, q, F16(2.8853900818f));
    return fma_(p, s, e);
}

AV_INLINE F16 exp_(F16 x) { return exp2_(min_(max_(x * F16(1.4426950409f), F16(-126.0f)), F16(126.9f))); }
AV_INLINE float exp_(float x) { return expf(x); }

// `size` ≥ 0 with the sign of `like`; 0 where that is 0 or not a number.
#if AV_ISA >= 512
AV_INLINE F16 signed_as(F16 size, F16 like) {
    const __mmask16 signs = _mm512_cmp_ps_mask(like.v, _mm512_setzero_ps(), _CMP_NEQ_OQ);
    const __m512i sign = _mm512_and_si512(_mm512_castps_si512(like.v), _mm512_set1_epi32((int)0x80000000));
    return _mm512_castsi512_ps(_mm512_maskz_or_epi32(signs, _mm512_castps_si512(size.v), sign));
}
#else
AV_INLINE F16 signed_as(F16 size, F16 like) { return select(like > F16(0.0f), size, keep(like < F16(0.0f), -size)); }
#endif

// Every lane's value moves one lane up or down; 0 comes in.
#if AV_ISA >= 512
AV_INLINE F16 lanes_up(F16 a) {
    return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(a.v), _mm512_setzero_si512(), 15));
}
AV_INLINE F16 lanes_down(F16 a) {
    return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_setzero_si512(), _mm512_castps_si512(a.v), 1));
}
#else
AV_INLINE F16 lanes_up(F16 a) {
    float lanes[17] = {};
    store(lanes + 1, a);
    return load(lanes);
}
AV_INLINE F16 lanes_down(F16 a) {
    float lanes[17] = {};
    store(lanes, a);
    return load(lanes + 1);
}
#endif

#if AV_ISA >= 256
// One register of the machine, for what is laid out in memory order.
AV_INLINE NativeF load_native(const float* p) {
    NativeF v;
    memcpy(&v, p, sizeof v);
    return v;
}
AV_INLINE NativeI load_native(const int32_t* p) {
    NativeI v;
    memcpy(&v, p, sizeof v);
    return v;
}
#if AV_ISA >= 512
AV_INLINE NativeF permute(NativeF v, NativeI from) { return (NativeF)_mm512_permutexvar_ps((__m512i)from, (__m512)v); }
AV_INLINE void store_past_cache(float* p, NativeF v) { _mm512_stream_ps(p, (__m512)v); }  // aligned; needs a fence in the end
AV_INLINE NativeF repeat_four(const float* p) { return (NativeF)_mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
#else
AV_INLINE NativeF permute(NativeF v, NativeI from) { return (NativeF)_mm256_permutevar8x32_ps((__m256)v, (__m256i)from); }
AV_INLINE void store_past_cache(float* p, NativeF v) { _mm256_stream_ps(p, (__m256)v); }
AV_INLINE NativeF repeat_four(const float* p) { return (NativeF)_mm256_broadcast_ps((const __m128*)p); }
#endif
AV_INLINE void fence() { _mm_sfence(); }
#else
AV_INLINE void fence() {}
#endif

}  // namespace AV_NS
}  // namespace av

#include "simd_rows.h"  // built on what stands above
