// The sixteen lanes of simd.h as two AVX2 registers, or as four of 128 bits that the compiler maps to what there is (SSE2, NEON).
#pragma once

namespace av {
inline namespace AV_NS {

#if AV_ISA >= 256
#define AV_NATIVE 8
#else
#define AV_NATIVE 4
#endif
typedef float NativeF __attribute__((vector_size(AV_NATIVE * 4)));
typedef int32_t NativeI __attribute__((vector_size(AV_NATIVE * 4)));
enum { REGISTERS = 16 / AV_NATIVE };

struct M16 {
    NativeI r[REGISTERS];
};
struct F16 {
    NativeF r[REGISTERS];
    AV_INLINE F16() {}
    AV_INLINE F16(float s) {
        for (int i = 0; i < REGISTERS; ++i) r[i] = NativeF{} + s;
    }
};
#define AV_EACH _Pragma("GCC unroll 4") for (int i = 0; i < REGISTERS; ++i)
#define AV_BINARY(op)                          \
    AV_INLINE F16 operator op(F16 a, F16 b) {  \
        F16 c;                                 \
        AV_EACH c.r[i] = a.r[i] op b.r[i];     \
        return c;                              \
    }
#define AV_COMPARE(op)                                   \
    AV_INLINE M16 operator op(F16 a, F16 b) {            \
        M16 c;                                           \
        AV_EACH c.r[i] = (NativeI)(a.r[i] op b.r[i]);    \
        return c;                                        \
    }
AV_BINARY(+) AV_BINARY(-) AV_BINARY(*) AV_BINARY(/)
AV_COMPARE(<) AV_COMPARE(<=) AV_COMPARE(>) AV_COMPARE(>=) AV_COMPARE(==)
AV_INLINE F16 operator-(F16 a) {
    F16 c;
    AV_EACH c.r[i] = -a.r[i];
    return c;
}
AV_INLINE M16 operator&(M16 a, M16 b) {
    M16 c;
    AV_EACH c.r[i] = a.r[i] & b.r[i];
    return c;
}
AV_INLINE M16 operator|(M16 a, M16 b) {
    M16 c;
    AV_EACH c.r[i] = a.r[i] | b.r[i];
    return c;
}
AV_INLINE uint32_t bits(M16 m) {
#if AV_ISA >= 256
    return (uint32_t)_mm256_movemask_ps((__m256)m.r[0]) | (uint32_t)_mm256_movemask_ps((__m256)m.r[1]) << 8;
#endif
    uint32_t out = 0;
    int32_t lanes[16];
    memcpy(lanes, &m, sizeof lanes);
    for (int i = 0; i < 16; ++i) out |= (uint32_t)(lanes[i] & 1) << i;
    return out;
}
AV_INLINE M16 mask_from_bits(uint32_t b) {
#if AV_ISA >= 256
    const NativeI bit = {1, 2, 4, 8, 16, 32, 64, 128};
    M16 c;
    AV_EACH c.r[i] = ((int32_t)(b >> 8 * i) & bit) == bit;
    return c;
#else
    int32_t lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = -(int32_t)((b >> i) & 1);
    M16 m;
    memcpy((void*)&m, lanes, sizeof lanes);
    return m;
#endif
}
AV_INLINE F16 select(M16 m, F16 a, F16 b) {
    F16 c;
    AV_EACH c.r[i] = m.r[i] ? a.r[i] : b.r[i];
    return c;
}
AV_INLINE F16 keep(M16 m, F16 a) {
    F16 c;
    AV_EACH c.r[i] = (NativeF)((NativeI)a.r[i] & m.r[i]);
    return c;
}
#if AV_ISA >= 256
#define AV_EACH_OF(name, call)            \
    AV_INLINE F16 name(F16 a, F16 b) {    \
        F16 c;                            \
        AV_EACH c.r[i] = (NativeF)(call); \
        return c;                         \
    }
AV_EACH_OF(min_, _mm256_min_ps((__m256)a.r[i], (__m256)b.r[i]))
AV_EACH_OF(max_, _mm256_max_ps((__m256)a.r[i], (__m256)b.r[i]))
#undef AV_EACH_OF
#else
AV_INLINE F16 min_(F16 a, F16 b) {
    F16 c;
    AV_EACH c.r[i] = a.r[i] < b.r[i] ? a.r[i] : b.r[i];
    return c;
}
AV_INLINE F16 max_(F16 a, F16 b) {
    F16 c;
    AV_EACH c.r[i] = a.r[i] > b.r[i] ? a.r[i] : b.r[i];
    return c;
}
#endif
AV_INLINE F16 fma_(F16 a, F16 b, F16 c) { return a * b + c; }  // contracted where the machine can
AV_INLINE F16 fnma_(F16 a, F16 b, F16 c) { return c - a * b; }
AV_INLINE F16 abs_(F16 a) {
    F16 c;
    AV_EACH c.r[i] = (NativeF)((NativeI)a.r[i] & 0x7fffffff);
    return c;
}
#if AV_ISA >= 256
#define AV_EACH_OF(name, call)            \
    AV_INLINE F16 name(F16 a) {           \
        F16 c;                            \
        AV_EACH c.r[i] = (NativeF)(call); \
        return c;                         \
    }
AV_EACH_OF(sqrt_, _mm256_sqrt_ps((__m256)a.r[i]))
AV_EACH_OF(floor_, _mm256_floor_ps((__m256)a.r[i]))
AV_EACH_OF(ceil_, _mm256_ceil_ps((__m256)a.r[i]))
AV_EACH_OF(round_, _mm256_round_ps((__m256)a.r[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#undef AV_EACH_OF
#else
AV_INLINE F16 sqrt_(F16 a) {
    F16 c;
    AV_EACH for (int j = 0; j < AV_NATIVE; ++j) c.r[i][j] = __builtin_sqrtf(a.r[i][j]);
    return c;
}
AV_INLINE F16 floor_(F16 a) {  // |a| < 2³¹
    F16 c;
    AV_EACH {
        const NativeF t = __builtin_convertvector(__builtin_convertvector(a.r[i], NativeI), NativeF);
        c.r[i] = t > a.r[i] ? t - 1.0f : t;
    }
    return c;
}
AV_INLINE F16 ceil_(F16 a) { return -floor_(-a); }
AV_INLINE F16 round_(F16 a) { return floor_(a + F16(0.5f)); }
#endif
AV_INLINE F16 scale2_(F16 a, F16 n) {  // n in [-126, 127], garbage beyond
    F16 c;
    AV_EACH c.r[i] = a.r[i] * (NativeF)((__builtin_convertvector(n.r[i], NativeI) + 127) << 23);
    return c;
}
// Register by register: a copy of the whole goes through the stack.
AV_INLINE F16 load(const float* p) {
    F16 c;
    AV_EACH memcpy((void*)&c.r[i], p + i * AV_NATIVE, sizeof c.r[i]);
    return c;
}
AV_INLINE void store(float* p, F16 a) { AV_EACH memcpy(p + i * AV_NATIVE, &a.r[i], sizeof a.r[i]); }
#if AV_ISA >= 256
AV_INLINE NativeI first_lanes(int n) { return NativeI{0, 1, 2, 3, 4, 5, 6, 7} < n; }  // all ones in lanes below n
AV_INLINE F16 load_part(const float* p, int n) {
    F16 c;
    AV_EACH c.r[i] = (NativeF)_mm256_maskload_ps(p + 8 * i, (__m256i)first_lanes(n - 8 * i));
    return c;
}
AV_INLINE void store_part(float* p, F16 a, int n) {
    if (n == 16)
        store(p, a);
    else
        AV_EACH _mm256_maskstore_ps(p + 8 * i, (__m256i)first_lanes(n - 8 * i), (__m256)a.r[i]);
}
#else
AV_INLINE F16 load_part(const float* p, int n) {
    float lanes[16] = {};
    memcpy(lanes, p, (size_t)n * 4);
    return load(lanes);
}
AV_INLINE void store_part(float* p, F16 a, int n) {
    float lanes[16];
    store(lanes, a);
    memcpy(p, lanes, (size_t)n * 4);
}
#endif
AV_INLINE F16 reciprocal(F16 a) {
#if AV_ISA >= 256
    F16 c;  // a 12-bit estimate and one Newton step
    AV_EACH {
        const __m256 r = _mm256_rcp_ps((__m256)a.r[i]);
        c.r[i] = (NativeF)_mm256_fmadd_ps(r, _mm256_fnmadd_ps((__m256)a.r[i], r, _mm256_set1_ps(1.0f)), r);
    }
    return c;
#else
    return F16(1.0f) / a;
#endif
}
AV_INLINE F16 root(F16 a) { return sqrt_(a); }
AV_INLINE void split_exponent(F16 a, F16& e, F16& m) {  // normal numbers
    AV_EACH {
        const NativeI b = (NativeI)a.r[i];
        e.r[i] = __builtin_convertvector((b >> 23) - 127, NativeF);
        m.r[i] = (NativeF)((b & 0x7fffff) | 0x3f800000);
    }
}
AV_INLINE F16 integer_bits(F16 a) {
    F16 c;
    AV_EACH c.r[i] = (NativeF)__builtin_convertvector(a.r[i], NativeI);
    return c;
}
AV_INLINE F16 pair_bits(F16 low, F16 high) {
    F16 c;
    AV_EACH c.r[i] = (NativeF)(__builtin_convertvector(low.r[i], NativeI) | __builtin_convertvector(high.r[i], NativeI) << 16);
    return c;
}
AV_INLINE float sum(F16 a) {
    NativeF s = a.r[0];
    for (int i = 1; i < REGISTERS; ++i) s += a.r[i];
    float t = 0;
    for (int j = 0; j < AV_NATIVE; ++j) t += s[j];
    return t;
}
AV_INLINE float max_of(F16 a) {
    float t = a.r[0][0];
    AV_EACH for (int j = 0; j < AV_NATIVE; ++j) t = a.r[i][j] > t ? a.r[i][j] : t;
    return t;
}
#undef AV_EACH
#undef AV_BINARY
#undef AV_COMPARE

}  // namespace AV_NS
}  // namespace av
