// Numbers kept as the upper halves of floats (bfloat16), to and from the lanes of simd.h.
#pragma once
#include "simd.h"

namespace av {
inline namespace AV_NS {

AV_INLINE F16 load_halves(const uint16_t* p) {
#if AV_ISA >= 512
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
#elif AV_ISA >= 256
    F16 out;
    for (int i = 0; i < 2; ++i) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(p + 8 * i)));
        out.r[i] = (NativeF)_mm256_slli_epi32(wide, 16);
    }
    return out;
#else
    uint32_t lanes[16];
    for (int l = 0; l < 16; ++l) lanes[l] = (uint32_t)p[l] << 16;
    F16 out;
    memcpy((void*)&out, lanes, sizeof lanes);
    return out;
#endif
}

// What is added to lanes before their lower halves are dropped: (bias + l·step) mod 2¹⁶. 2¹⁵ everywhere rounds to the nearest.
struct U16 {
    alignas(64) uint32_t lanes[16];
};
AV_INLINE U16 rounding(uint32_t bias, uint32_t step) {
    U16 out;
    for (uint32_t l = 0; l < 16; ++l) out.lanes[l] = (bias + l * step) & 0xffffu;
    return out;
}

AV_INLINE void store_halves(uint16_t* p, F16 a, const U16& add) {
#if AV_ISA >= 512
    const __m512i sum = _mm512_add_epi32(_mm512_castps_si512(a.v), _mm512_load_si512(add.lanes));
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(sum, 16)));
#elif AV_ISA >= 256
    __m256i half[2];
    for (int i = 0; i < 2; ++i)
        half[i] = _mm256_srli_epi32(_mm256_add_epi32((__m256i)a.r[i], _mm256_load_si256((const __m256i*)(add.lanes + 8 * i))), 16);
    _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(_mm256_packus_epi32(half[0], half[1]), 0xd8));
#else
    uint32_t lanes[16];
    memcpy(lanes, &a, sizeof lanes);
    for (int l = 0; l < 16; ++l) p[l] = (uint16_t)((lanes[l] + add.lanes[l]) >> 16);
#endif
}

// 1/a and √a, a ≥ 0, to twelve bits or more, for numbers that are known no better. √a below 1.2e-38: see `root`.
AV_INLINE F16 rough_reciprocal(F16 a) {
#if AV_ISA >= 512
    return _mm512_rcp14_ps(a.v);
#elif AV_ISA >= 256
    F16 out;
    for (int i = 0; i < 2; ++i) out.r[i] = (NativeF)_mm256_rcp_ps((__m256)a.r[i]);
    return out;
#else
    return reciprocal(a);
#endif
}
AV_INLINE F16 rough_root(F16 a) {
#if AV_ISA >= 512
    const __m512 x = _mm512_max_ps(a.v, _mm512_set1_ps(1.2e-38f));
    return _mm512_mul_ps(x, _mm512_rsqrt14_ps(x));
#elif AV_ISA >= 256
    F16 out;
    for (int i = 0; i < 2; ++i) {
        const __m256 x = _mm256_max_ps((__m256)a.r[i], _mm256_set1_ps(1.2e-38f));
        out.r[i] = (NativeF)_mm256_mul_ps(x, _mm256_rsqrt_ps(x));
    }
    return out;
#else
    return root(a);
#endif
}

}  // namespace AV_NS
}  // namespace av
