// Moving data between memory and the lanes of simd.h: transpositions, rows of a few floats, squares of pixels.
#pragma once
#include "simd.h"

namespace av {
inline namespace AV_NS {

#if AV_ISA >= 512
// Sixteen registers that hold rows become sixteen that hold columns.
AV_INLINE void transpose(F16* r) {
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
        t[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
    }
    __m512 u[16];
    for (int i = 0; i < 16; i += 4) {
        u[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_f32x4(u[i], u[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_f32x4(u[i], u[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_f32x4(u[8 + i], u[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_f32x4(u[8 + i], u[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0xdd);
    }
}
#elif AV_ISA >= 256
AV_INLINE void transpose_eight(__m256* r) {
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44), u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44), u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm256_permute2f128_ps(u[i], u[4 + i], 0x20);
        r[4 + i] = _mm256_permute2f128_ps(u[i], u[4 + i], 0x31);
    }
}
AV_INLINE void transpose(F16* r) {  // four squares of eight; the two off the diagonal change places
    __m256 t[2][8];
    for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 8; ++i) t[half][i] = r[8 * half + i].r[half];
        transpose_eight(t[half]);
        for (int i = 0; i < 8; ++i) r[8 * half + i].r[half] = t[half][i];
    }
    for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 8; ++i) t[half][i] = r[8 * half + i].r[1 - half];
        transpose_eight(t[half]);
    }
    for (int i = 0; i < 8; ++i) r[i].r[1] = t[1][i], r[8 + i].r[0] = t[0][i];
}
#else
AV_OUTLINE void transpose(F16* r) {
    float a[16][16], b[16][16];
    for (int i = 0; i < 16; ++i) store(a[i], r[i]);
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) b[j][i] = a[i][j];
    for (int i = 0; i < 16; ++i) r[i] = load(b[i]);
}
#endif

#if AV_ISA >= 512
// The sums of twelve vectors, as the first twelve lanes of one. Pairs are folded into each other: a blend and a shuffle where two
// shuffles would do the same, because shuffles have half the units.
AV_INLINE F16 sums_of_twelve(const F16* v) {
    __m512 half[6], quarter[3];
    for (int i = 0; i < 6; ++i) {  // [first | second], eight partial sums each
        const __m512 a = v[2 * i].v, b = v[2 * i + 1].v;
        half[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e));
    }
    for (int i = 0; i < 3; ++i)  // lane j of 128 bits: four partial sums of vector 4i + j
        quarter[i] = _mm512_add_ps(_mm512_shuffle_f32x4(half[2 * i], half[2 * i + 1], 0x88),
                                   _mm512_shuffle_f32x4(half[2 * i], half[2 * i + 1], 0xdd));
    const __m512 a = _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, quarter[0], quarter[1]),
                                   _mm512_shuffle_ps(quarter[0], quarter[1], 0x4e));
    const __m512 b = _mm512_add_ps(quarter[2], _mm512_shuffle_ps(quarter[2], quarter[2], 0x4e));
    const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 3, 3, 3);
    return _mm512_maskz_permutexvar_ps(0x0fff, order, sums);
}
#elif AV_ISA >= 256
AV_INLINE F16 sums_of_twelve(const F16* v) {
    __m256 eight[12];
    for (int i = 0; i < 12; ++i) eight[i] = (__m256)(v[i].r[0] + v[i].r[1]);
    __m128 four[3];
    for (int i = 0; i < 3; ++i) {
        const __m256 ab = _mm256_hadd_ps(eight[4 * i], eight[4 * i + 1]), cd = _mm256_hadd_ps(eight[4 * i + 2], eight[4 * i + 3]);
        const __m256 t = _mm256_hadd_ps(ab, cd);
        four[i] = _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
    }
    F16 out;
    out.r[0] = (NativeF)_mm256_set_m128(four[1], four[0]);
    out.r[1] = (NativeF)_mm256_set_m128(_mm_setzero_ps(), four[2]);
    return out;
}
#else
AV_INLINE F16 sums_of_twelve(const F16* v) {
    float out[16] = {};
    for (int i = 0; i < 12; ++i) out[i] = sum(v[i]);
    return load(out);
}
#endif

#if AV_ISA >= 512
AV_INLINE __m512 pick2(F16 a, __m512i index, F16 b) { return _mm512_permutex2var_ps(a.v, index, b.v); }

// Sixteen rows of two, three or four floats, whole.
AV_INLINE void load_two(const float* p, F16* out) {
    const F16 a = load(p), b = load(p + 16);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    out[0] = pick2(a, even, b), out[1] = pick2(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
}
AV_INLINE void store_two(float* p, const F16* in) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    store(p, pick2(in[0], low, in[1])), store(p + 16, pick2(in[0], _mm512_add_epi32(low, _mm512_set1_epi32(8)), in[1]));
}
AV_INLINE void load_three(const float* p, F16* out) {
    const F16 a = load(p), b = load(p + 16), c = load(p + 32);
    const __m512i step = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45);
    for (int s = 0; s < 3; ++s) {
        const __m512i index = _mm512_add_epi32(step, _mm512_set1_epi32(s));
        const __mmask16 last = _mm512_cmpge_epi32_mask(index, _mm512_set1_epi32(32));
        out[s] = _mm512_mask_permutexvar_ps(pick2(a, index, b), last, index, c.v);
    }
}
AV_INLINE void store_three(float* p, const F16* in) {
    alignas(64) static const int32_t from[3][16] = {{0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5},
                                                    {21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26},
                                                    {0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0}};
    alignas(64) static const int32_t third[3][16] = {{0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 4, 0},
                                                     {0, 5, 0, 0, 6, 0, 0, 7, 0, 0, 8, 0, 0, 9, 0, 0},
                                                     {10, 0, 0, 11, 0, 0, 12, 0, 0, 13, 0, 0, 14, 0, 0, 15}};
    const __mmask16 is_third[3] = {0x4924, 0x2492, 0x9249};
    for (int i = 0; i < 3; ++i)
        store(p + 16 * i, _mm512_mask_permutexvar_ps(pick2(in[0], _mm512_load_si512(from[i]), in[1]), is_third[i],
                                                     _mm512_load_si512(third[i]), in[2].v));
}
AV_INLINE void load_four(const float* p, F16* out) {
    const __m512i even = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    for (int s = 0; s < 4; s += 2) {
        const __m512i index = _mm512_add_epi32(even, _mm512_set1_epi32(s));
        const __m512 low = pick2(load(p), index, load(p + 16)), high = pick2(load(p + 32), index, load(p + 48));
        out[s] = _mm512_shuffle_f32x4(low, high, 0x44);
        out[s + 1] = _mm512_shuffle_f32x4(low, high, 0xee);
    }
}
AV_INLINE void store_four(float* p, const F16* in) {
    const __m512i index = _mm512_setr_epi32(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
    const __m512i next = _mm512_add_epi32(index, _mm512_set1_epi32(4));
    const F16 a = _mm512_shuffle_f32x4(in[0].v, in[1].v, 0x44), b = _mm512_shuffle_f32x4(in[2].v, in[3].v, 0x44);
    const F16 c = _mm512_shuffle_f32x4(in[0].v, in[1].v, 0xee), d = _mm512_shuffle_f32x4(in[2].v, in[3].v, 0xee);
    store(p, pick2(a, index, b)), store(p + 16, pick2(a, next, b));
    store(p + 32, pick2(c, index, d)), store(p + 48, pick2(c, next, d));
}
#elif AV_ISA >= 256
// Sixteen rows of three or four floats, whole: eight rows are a transposition within lanes of 128 bits. Rows of three are moved as
// four, the last excepted.
AV_INLINE void transpose_lanes(__m256* r) {
    const __m256 a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
    const __m256 c = _mm256_unpacklo_ps(r[2], r[3]), d = _mm256_unpackhi_ps(r[2], r[3]);
    r[0] = _mm256_shuffle_ps(a, c, 0x44), r[1] = _mm256_shuffle_ps(a, c, 0xee);
    r[2] = _mm256_shuffle_ps(b, d, 0x44), r[3] = _mm256_shuffle_ps(b, d, 0xee);
}
template <int S>
AV_INLINE void load_narrow(const float* p, F16* out) {
    const __m128i three = _mm_setr_epi32(-1, -1, -1, 0);
    for (int half = 0; half < 2; ++half) {
        __m256 r[4];
        for (int i = 0; i < 4; ++i) {
            const float *low = p + (8 * half + i) * S, *high = low + 4 * S;
            const bool last = S == 3 && half == 1 && i == 3;
            r[i] = _mm256_set_m128(last ? _mm_maskload_ps(high, three) : _mm_loadu_ps(high), _mm_loadu_ps(low));
        }
        transpose_lanes(r);
        for (int s = 0; s < S; ++s) out[s].r[half] = (NativeF)r[s];
    }
}
template <int S>
AV_INLINE void store_narrow(float* p, const F16* in) {
    const __m128i three = _mm_setr_epi32(-1, -1, -1, 0);
    for (int half = 0; half < 2; ++half) {  // in the order of the rows: each repairs what the one before wrote too much
        __m256 r[4];
        for (int s = 0; s < 4; ++s) r[s] = (__m256)in[s < S ? s : 0].r[half];
        transpose_lanes(r);
        for (int i = 0; i < 4; ++i) _mm_storeu_ps(p + (8 * half + i) * S, _mm256_castps256_ps128(r[i]));
        for (int i = 0; i < 4; ++i) {
            const __m128 high = _mm256_extractf128_ps(r[i], 1);
            if (S == 3 && half == 1 && i == 3)
                _mm_maskstore_ps(p + 15 * S, three, high);
            else
                _mm_storeu_ps(p + (8 * half + 4 + i) * S, high);
        }
    }
}
#endif

#if AV_ISA >= 256
// Four pieces of four floats, `stride` apart, and back.
AV_INLINE F16 load_square(const float* p, int64_t stride) {
    const __m128 a = _mm_loadu_ps(p), b = _mm_loadu_ps(p + stride), c = _mm_loadu_ps(p + 2 * stride), d = _mm_loadu_ps(p + 3 * stride);
#if AV_ISA >= 512
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_set_m128(b, a)), _mm256_set_m128(d, c), 1);
#else
    F16 out;
    out.r[0] = (NativeF)_mm256_set_m128(b, a), out.r[1] = (NativeF)_mm256_set_m128(d, c);
    return out;
#endif
}
AV_INLINE void store_square(float* p, int64_t stride, F16 a) {
#if AV_ISA >= 512
    const __m256 low = _mm512_castps512_ps256(a.v), high = _mm512_extractf32x8_ps(a.v, 1);
#else
    const __m256 low = (__m256)a.r[0], high = (__m256)a.r[1];
#endif
    _mm_storeu_ps(p, _mm256_castps256_ps128(low)), _mm_storeu_ps(p + stride, _mm256_extractf128_ps(low, 1));
    _mm_storeu_ps(p + 2 * stride, _mm256_castps256_ps128(high)), _mm_storeu_ps(p + 3 * stride, _mm256_extractf128_ps(high, 1));
}
// In each group of four lanes: two of a's, then two of b's.
template <int a0, int a1, int b0, int b1>
AV_INLINE F16 mix(F16 a, F16 b) {
#if AV_ISA >= 512
    return _mm512_shuffle_ps(a.v, b.v, a0 | a1 << 2 | b0 << 4 | b1 << 6);
#else
    F16 out;
    for (int i = 0; i < 2; ++i) out.r[i] = (NativeF)_mm256_shuffle_ps((__m256)a.r[i], (__m256)b.r[i], a0 | a1 << 2 | b0 << 4 | b1 << 6);
    return out;
#endif
}
// Four rows of four pixels of three floats.
AV_INLINE void load_pixels(const float* p, int64_t stride, F16* rgb) {
    const F16 x = load_square(p, stride), y = load_square(p + 4, stride), z = load_square(p + 8, stride);  // rgbr gbrg brgb
    rgb[0] = mix<0, 3, 0, 2>(x, mix<2, 2, 1, 1>(y, z));
    rgb[1] = mix<0, 2, 0, 2>(mix<1, 1, 0, 0>(x, y), mix<3, 3, 2, 2>(y, z));
    rgb[2] = mix<0, 2, 0, 3>(mix<2, 2, 1, 1>(x, y), z);
}
AV_INLINE void store_pixels(float* p, int64_t stride, const F16* rgb) {
    const F16 r = rgb[0], g = rgb[1], b = rgb[2];
    store_square(p, stride, mix<0, 2, 0, 2>(mix<0, 0, 0, 0>(r, g), mix<0, 0, 1, 1>(b, r)));
    store_square(p + 4, stride, mix<0, 2, 0, 2>(mix<1, 1, 1, 1>(g, b), mix<2, 2, 2, 2>(r, g)));
    store_square(p + 8, stride, mix<0, 2, 0, 2>(mix<2, 2, 3, 3>(b, r), mix<3, 3, 3, 3>(g, b)));
}
#endif

#if AV_ISA >= 512
// Eight registers of [row i | row 8 + i] become those of columns, and columns such rows: lanes and 128 bits change places.
AV_INLINE void transpose_eights(__m512* r) {
    __m512 t[8], u[8];
    for (int i = 0; i < 8; i += 2) t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44), u[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44), u[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(4));
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_permutex2var_ps(u[i], low, u[4 + i]);
        r[4 + i] = _mm512_permutex2var_ps(u[i], high, u[4 + i]);
    }
}
#endif

// Rows of S floats for up to 16 items (n valid; the rest reads as row 0) become S vectors of one lane per item, and back.
template <int S>
AV_INLINE void load_rows(const float* p, int n, F16* out) {
    if (S % 16 == 0) {
        for (int s = 0; s < S; s += 16) {
            F16 r[16];
            for (int l = 0; l < 16; ++l) r[l] = load(p + (l < n ? l : 0) * S + s);
            transpose(r);
            for (int j = 0; j < 16; ++j) out[s + j] = r[j];
        }
    } else if (S == 1 && n == 16) {
        out[0] = load(p);
#if AV_ISA >= 512
    } else if (S == 2 && n == 16) {
        load_two(p, out);
    } else if (S == 3 && n == 16) {
        load_three(p, out);
    } else if (S == 4 && n == 16) {
        load_four(p, out);
#elif AV_ISA >= 256
    } else if ((S == 3 || S == 4) && n == 16) {
        load_narrow<S>(p, out);
#endif
    } else if (S < 16 && S > 4) {
        F16 r[16];
        for (int l = 0; l < 16; ++l) r[l] = (l * S + 16 <= n * S) ? load(p + l * S) : load_part(p + (l < n ? l : 0) * S, S);
        transpose(r);
        for (int s = 0; s < S; ++s) out[s] = r[s];
    } else {
        float lanes[S][16];
        for (int l = 0; l < 16; ++l)
            for (int s = 0; s < S; ++s) lanes[s][l] = p[(l < n ? l : 0) * S + s];
        for (int s = 0; s < S; ++s) out[s] = load(lanes[s]);
    }
}
template <int S>
AV_INLINE void store_rows(float* p, int n, const F16* in) {
    if (S % 16 == 0) {
        for (int s = 0; s < S; s += 16) {
            F16 r[16];
            for (int j = 0; j < 16; ++j) r[j] = in[s + j];
            transpose(r);
            for (int l = 0; l < n; ++l) store(p + l * S + s, r[l]);
        }
    } else if (S == 1 && n == 16) {
        store(p, in[0]);
#if AV_ISA >= 512
    } else if (S == 2 && n == 16) {
        store_two(p, in);
    } else if (S == 3 && n == 16) {
        store_three(p, in);
    } else if (S == 4 && n == 16) {
        store_four(p, in);
    } else if (S == 8) {
        __m512 r[8];
        for (int i = 0; i < 8; ++i) r[i] = in[i].v;
        transpose_eights(r);
        for (int l = 0; l < n; ++l) _mm256_storeu_ps(p + 8 * l, l < 8 ? _mm512_castps512_ps256(r[l & 7]) : _mm512_extractf32x8_ps(r[l & 7], 1));
#elif AV_ISA >= 256
    } else if ((S == 3 || S == 4) && n == 16) {
        store_narrow<S>(p, in);
#endif
    } else if (S < 16 && S > 4) {
        F16 r[16];
        for (int j = 0; j < 16; ++j) r[j] = in[j < S ? j : 0];
        transpose(r);
        for (int l = 0; l < n; ++l) {  // in the order of the rows: each repairs what the one before wrote too much
            if (l * S + 16 <= n * S)
                store(p + l * S, r[l]);
            else
                store_part(p + l * S, r[l], S);
        }
    } else {
        float lanes[S][16];
        for (int s = 0; s < S; ++s) store(lanes[s], in[s]);
        for (int l = 0; l < n; ++l)
            for (int s = 0; s < S; ++s) p[l * S + s] = lanes[s][l];
    }
}

// Rows of eight floats at base + 8·ids[l] for up to 16 items (n valid; the rest reads as the first) become eight vectors.
AV_INLINE void gather_eights(const float* base, const int64_t* ids, int n, F16* out) {
    const float* row[16];
    for (int l = 0; l < 16; ++l) row[l] = base + 8 * ids[l < n ? l : 0];
#if AV_ISA >= 512
    __m512 r[8];
    for (int i = 0; i < 8; ++i)
        r[i] = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(row[i])), _mm256_loadu_ps(row[8 + i]), 1);
    transpose_eights(r);
    for (int i = 0; i < 8; ++i) out[i] = r[i];
#elif AV_ISA >= 256
    for (int half = 0; half < 2; ++half) {
        __m256 r[8];
        for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(row[8 * half + i]);
        transpose_eight(r);
        for (int i = 0; i < 8; ++i) out[i].r[half] = (NativeF)r[i];
    }
#else
    alignas(64) float lanes[8][16];
    for (int l = 0; l < 16; ++l)
        for (int i = 0; i < 8; ++i) lanes[i][l] = row[l][i];
    for (int i = 0; i < 8; ++i) out[i] = load(lanes[i]);
#endif
}

// Three floats at each of sixteen addresses; four may be read where `more` says so.
AV_INLINE void gather_threes(const float* const* row, const bool* more, F16* out) {
#if AV_ISA >= 256
    const __m128i three = _mm_setr_epi32(-1, -1, -1, 0);
    __m128 q[16];
    for (int l = 0; l < 16; ++l) q[l] = more[l] ? _mm_loadu_ps(row[l]) : _mm_maskload_ps(row[l], three);
#endif
#if AV_ISA >= 512
    __m512 r[4];
    for (int i = 0; i < 4; ++i)
        r[i] = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_set_m128(q[4 + i], q[i])), _mm256_set_m128(q[12 + i], q[8 + i]), 1);
    const __m512 a = _mm512_unpacklo_ps(r[0], r[1]), b = _mm512_unpackhi_ps(r[0], r[1]);
    const __m512 c = _mm512_unpacklo_ps(r[2], r[3]), d = _mm512_unpackhi_ps(r[2], r[3]);
    out[0] = _mm512_shuffle_ps(a, c, 0x44), out[1] = _mm512_shuffle_ps(a, c, 0xee), out[2] = _mm512_shuffle_ps(b, d, 0x44);
#elif AV_ISA >= 256
    for (int half = 0; half < 2; ++half) {
        __m256 r[4];
        for (int i = 0; i < 4; ++i) r[i] = _mm256_set_m128(q[8 * half + 4 + i], q[8 * half + i]);
        transpose_lanes(r);
        for (int i = 0; i < 3; ++i) out[i].r[half] = (NativeF)r[i];
    }
#else
    alignas(64) float lanes[3][16];
    for (int l = 0; l < 16; ++l)
        for (int i = 0; i < 3; ++i) lanes[i][l] = row[l][i];
    for (int i = 0; i < 3; ++i) out[i] = load(lanes[i]);
    (void)more;
#endif
}

}  // namespace AV_NS
}  // namespace av
