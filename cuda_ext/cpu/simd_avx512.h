// The sixteen lanes of simd.h as one AVX-512 register, a mask as sixteen bits.
#pragma once

namespace av {
inline namespace AV_NS {

#define AV_NATIVE 16
typedef float NativeF __attribute__((vector_size(64)));
typedef int32_t NativeI __attribute__((vector_size(64)));

struct M16 {
    __mmask16 m;
    AV_INLINE M16() {}
    AV_INLINE explicit M16(__mmask16 m) : m(m) {}
};
struct F16 {
    __m512 v;
    AV_INLINE F16() {}
    AV_INLINE F16(__m512 v) : v(v) {}
    AV_INLINE F16(float s) : v(_mm512_set1_ps(s)) {}
};
AV_INLINE F16 operator+(F16 a, F16 b) { return a.v + b.v; }
AV_INLINE F16 operator-(F16 a, F16 b) { return a.v - b.v; }
AV_INLINE F16 operator*(F16 a, F16 b) { return a.v * b.v; }
AV_INLINE F16 operator/(F16 a, F16 b) { return a.v / b.v; }
AV_INLINE F16 operator-(F16 a) { return -a.v; }
AV_INLINE M16 operator<(F16 a, F16 b) { return M16(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)); }
AV_INLINE M16 operator<=(F16 a, F16 b) { return M16(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)); }
AV_INLINE M16 operator>(F16 a, F16 b) { return M16(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)); }
AV_INLINE M16 operator>=(F16 a, F16 b) { return M16(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)); }
AV_INLINE M16 operator==(F16 a, F16 b) { return M16(_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)); }
AV_INLINE M16 operator&(M16 a, M16 b) { return M16((__mmask16)(a.m & b.m)); }
AV_INLINE M16 operator|(M16 a, M16 b) { return M16((__mmask16)(a.m | b.m)); }
AV_INLINE uint32_t bits(M16 m) { return m.m; }
AV_INLINE M16 mask_from_bits(uint32_t m) { return M16((__mmask16)m); }
AV_INLINE F16 select(M16 m, F16 a, F16 b) { return _mm512_mask_blend_ps(m.m, b.v, a.v); }
AV_INLINE F16 keep(M16 m, F16 a) { return _mm512_maskz_mov_ps(m.m, a.v); }  // 0 elsewhere
AV_INLINE F16 min_(F16 a, F16 b) { return _mm512_min_ps(a.v, b.v); }
AV_INLINE F16 max_(F16 a, F16 b) { return _mm512_max_ps(a.v, b.v); }
AV_INLINE F16 sqrt_(F16 a) { return _mm512_sqrt_ps(a.v); }
AV_INLINE F16 fma_(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
AV_INLINE F16 fnma_(F16 a, F16 b, F16 c) { return _mm512_fnmadd_ps(a.v, b.v, c.v); }  // c - a·b
AV_INLINE F16 abs_(F16 a) { return _mm512_abs_ps(a.v); }
AV_INLINE F16 floor_(F16 a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
AV_INLINE F16 ceil_(F16 a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
AV_INLINE F16 round_(F16 a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
AV_INLINE F16 scale2_(F16 a, F16 n) { return _mm512_scalef_ps(a.v, n.v); }  // a · 2ⁿ, n integral
AV_INLINE F16 load(const float* p) { return _mm512_loadu_ps(p); }
AV_INLINE void store(float* p, F16 a) { _mm512_storeu_ps(p, a.v); }
AV_INLINE F16 load_part(const float* p, int n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
AV_INLINE void store_part(float* p, F16 a, int n) {
    if (n == 16)  // masked stores are slow on some processors
        _mm512_storeu_ps(p, a.v);
    else
        _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a.v);
}
// 1/a to full single precision for normal a (14-bit estimate and one Newton step); a third of a division's cost.
AV_INLINE F16 reciprocal(F16 a) {
    const __m512 r = _mm512_rcp14_ps(a.v);
    return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(a.v, r, _mm512_set1_ps(1.0f)), r);
}
// √a for a ≥ 0 likewise; below 1.2e-38 as if a were that: the least normal number, as a denormal one would be flushed to
// zero, and zero times its reciprocal root is not a number, in a process where some library has set flush-to-zero.
AV_INLINE F16 root(F16 a) {
    const __m512 x = _mm512_max_ps(a.v, _mm512_set1_ps(1.2e-38f)), r = _mm512_rsqrt14_ps(x), s = x * r;
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(s, s, x), r * _mm512_set1_ps(0.5f), s);
}
// Exponent and mantissa of positive numbers: a = m · 2ᵉ, m ∈ [1, 2).
AV_INLINE void split_exponent(F16 a, F16& e, F16& m) {
    e = _mm512_getexp_ps(a.v);
    m = _mm512_getmant_ps(a.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
}
// Whole numbers below 2³¹ as the bits of integers, and two below 2¹⁶ as those of one integer.
AV_INLINE F16 integer_bits(F16 a) { return _mm512_castsi512_ps(_mm512_cvttps_epi32(a.v)); }
AV_INLINE F16 pair_bits(F16 low, F16 high) {
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_cvttps_epi32(low.v), _mm512_slli_epi32(_mm512_cvttps_epi32(high.v), 16)));
}
AV_INLINE float sum(F16 a) { return _mm512_reduce_add_ps(a.v); }
AV_INLINE float max_of(F16 a) { return _mm512_reduce_max_ps(a.v); }

}  // namespace AV_NS
}  // namespace av
