// Blendshapes of Gaussians, and the penalties of their training: small work over large arrays, each array read once.
#pragma once
#include "../include/abi.h"
#include "outer.h"
#include "pool.h"

namespace av {
inline namespace AV_NS {

constexpr int BLEND_COLUMNS = 10;
constexpr int64_t BLEND_BLOCK = 1024;

// A row of K weights in up to four registers; lanes beyond K are zero.
struct BlendRow {
    F16 r[4];
};

AV_INLINE BlendRow load_blend_row(const float* p, int K) {
    BlendRow row;
    for (int i = 0; i < 4; ++i) {
        const int left = K - 16 * i;
        row.r[i] = left >= 16 ? load(p + 16 * i) : left > 0 ? load_part(p + 16 * i, left) : F16(0.0f);
    }
    return row;
}

// The corrections of one Gaussian, basis·weights, as the first ten lanes; the others are zero.
template <int REGISTERS_USED>
AV_INLINE F16 blend_row(const float* p, int K, const BlendRow& weights) {
    const int tail = K - 16 * (REGISTERS_USED - 1);
    F16 rows[12];
    for (int c = 0; c < BLEND_COLUMNS; ++c, p += K) {
        F16 total = weights.r[REGISTERS_USED - 1] * load_part(p + 16 * (REGISTERS_USED - 1), tail);
        for (int i = 0; i + 1 < REGISTERS_USED; ++i) total = fma_(weights.r[i], load(p + 16 * i), total);
        rows[c] = total;
    }
    rows[10] = rows[11] = F16(0.0f);
    return sums_of_twelve(rows);
}

struct BlendWeights {
    BlendRow row;
#if AV_ISA >= 512
    __m512 twelve[3];  // of K = 12, repeated over the three registers of four rows
#elif AV_ISA >= 256
    __m128 twelve[3];
#endif
};

static BlendWeights blend_weights(const float* p, int K) {
    BlendWeights weights;
    weights.row = load_blend_row(p, K);
#if AV_ISA >= 512
    float repeated[48];
    for (int i = 0; i < 48; ++i) repeated[i] = p[i % (K < 12 ? K : 12)];
    for (int i = 0; i < 3; ++i) weights.twelve[i] = _mm512_loadu_ps(repeated + 16 * i);
#elif AV_ISA >= 256
    for (int i = 0; i < 3; ++i) weights.twelve[i] = K == 12 ? _mm_loadu_ps(p + 4 * i) : _mm_setzero_ps();
#endif
    return weights;
}

#if AV_ISA >= 512
// Corrections of sixteen Gaussians by twelve weights, three pieces of four to a row: whole registers in the order of memory. Three
// registers hold four rows, a a a b | b b c c | c d d d; their products are added up piece by piece to a b c d.
AV_INLINE void blend_corrections_twelve(const float* basis, const __m512* weights, F16* delta) {
    alignas(64) float pieces[5][8][16];  // four rows of the twenty of two Gaussians, times eight
    for (int pair = 0; pair < 8; ++pair) {
        for (int j = 0; j < 5; ++j, basis += 48) {
            const __m512 p = _mm512_mul_ps(_mm512_loadu_ps(basis), weights[0]), q = _mm512_mul_ps(_mm512_loadu_ps(basis + 16), weights[1]);
            const __m512 r = _mm512_mul_ps(_mm512_loadu_ps(basis + 32), weights[2]);
            const __m512 here = _mm512_mask_blend_ps(0xf000, _mm512_mask_blend_ps(0x000f, q, p), r);  // a b c d
            const __m512 next = _mm512_shuffle_f32x4(p, r, 0x4d);  // a1 b0 c2 d0
            const __m512 last = _mm512_mask_shuffle_f32x4(_mm512_shuffle_f32x4(p, r, 0x82), 0x0ff0, q, q, 0x30);  // a2 b1 c1 d1
            _mm512_store_ps(pieces[j][pair], here + next + last);
        }
    }
    __m512 sums[5][2];  // 128 bits i of [j][s]: row 4j + i of the pairs 4s to 4s + 3
    for (int j = 0; j < 5; ++j) {
        for (int s = 0; s < 2; ++s) {
            const float* from = pieces[j][4 * s];
            const __m512 a = _mm512_load_ps(from), b = _mm512_load_ps(from + 16), c = _mm512_load_ps(from + 32), d = _mm512_load_ps(from + 48);
            const __m512 ab = _mm512_mask_blend_ps(0xcccc, a, b) + _mm512_shuffle_ps(a, b, 0x4e);
            const __m512 cd = _mm512_mask_blend_ps(0xcccc, c, d) + _mm512_shuffle_ps(c, d, 0x4e);
            sums[j][s] = _mm512_shuffle_ps(ab, cd, 0x88) + _mm512_shuffle_ps(ab, cd, 0xdd);
        }
    }
    const __m512i both = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 0, 16, 1, 17, 2, 18, 3, 19);
    for (int c = 0; c < BLEND_COLUMNS; ++c) {
        const int first = c, second = BLEND_COLUMNS + c;  // rows of the two Gaussians of a pair
        const __m512i from = _mm512_add_epi32(both, _mm512_mask_blend_epi32(0xaaaa, _mm512_set1_epi32(first % 4 * 4), _mm512_set1_epi32(second % 4 * 4)));
        const __m512 low = _mm512_permutex2var_ps(sums[first / 4][0], from, sums[second / 4][0]);
        const __m512 high = _mm512_permutex2var_ps(sums[first / 4][1], from, sums[second / 4][1]);
        delta[c] = _mm512_mask_blend_ps(0xff00, low, high);
    }
}
#endif

#if AV_ISA >= 256 && AV_ISA < 512
// The corrections of one Gaussian by twelve weights: pieces of four are added up before anything is shuffled.
AV_INLINE void blend_row_twelve(const float* p, const __m128* weights, float* out) {
    __m128 pieces[12];
#pragma GCC unroll 10
    for (int c = 0; c < BLEND_COLUMNS; ++c, p += 12)
        pieces[c] = _mm_fmadd_ps(weights[2], _mm_loadu_ps(p + 8), _mm_fmadd_ps(weights[1], _mm_loadu_ps(p + 4), _mm_mul_ps(weights[0], _mm_loadu_ps(p))));
    pieces[10] = pieces[11] = _mm_setzero_ps();
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i)
        _mm_store_ps(out + 4 * i, _mm_hadd_ps(_mm_hadd_ps(pieces[4 * i], pieces[4 * i + 1]), _mm_hadd_ps(pieces[4 * i + 2], pieces[4 * i + 3])));
    _mm_store_ps(out + 12, _mm_setzero_ps());
}
#endif

// Corrections of sixteen Gaussians, basis·weights: delta[c] has a lane for each; count of them are there.
template <int REGISTERS_USED>
AV_INLINE void blend_corrections(const float* basis, int K, int count, const BlendWeights& weights, F16* delta) {
#if AV_ISA >= 512
    if (REGISTERS_USED == 1 && K == 12 && count == 16) return blend_corrections_twelve(basis, weights.twelve, delta);
#endif
    alignas(64) float rows[16][16];
#if AV_ISA >= 256 && AV_ISA < 512
    if (REGISTERS_USED == 1 && K == 12 && count == 16)
        for (int l = 0; l < 16; ++l) blend_row_twelve(basis + l * BLEND_COLUMNS * 12, weights.twelve, rows[l]);
    else
#endif
    for (int l = 0; l < 16; ++l)
        store(rows[l], l < count ? blend_row<REGISTERS_USED>(basis + (int64_t)l * BLEND_COLUMNS * K, K, weights.row) : F16(0.0f));
    F16 columns[16];
    load_rows<16>(rows[0], 16, columns);
    for (int c = 0; c < BLEND_COLUMNS; ++c) delta[c] = columns[c];
}

// The colours of Gaussians [n, n + count): the constant term with its correction, the others as they are.
AV_INLINE void blend_colors(const float* from, float* to, int width, int64_t n, int count, const F16* delta) {
    const int all = count * width;
    from += n * width, to += n * width;
    alignas(64) float correction[3][16];
    for (int i = 0; i < 3; ++i) store(correction[i], delta[i]);
    int at = 0;
    for (; at + 16 <= all; at += 16) store(to + at, load(from + at));
    if (at < all) store_part(to + at, load_part(from + at, all - at), all - at);
    for (int l = 0; l < count; ++l)
        for (int i = 0; i < 3; ++i) to[l * width + i] = from[l * width + i] + correction[i][l];
}

// Corrected Gaussians [begin, end). Returns the sum of squares for `size`.
template <int REGISTERS_USED>
static double blend_block(const AvBlend& in, int64_t begin, int64_t end, const BlendWeights& weights) {
    double squares = 0;
    for (int64_t n = begin; n < end; n += 16) {
        const int count = end - n < 16 ? (int)(end - n) : 16;
        F16 delta[BLEND_COLUMNS], mean[3], quat[4], square = F16(0.0f);
        blend_corrections<REGISTERS_USED>(in.basis + n * BLEND_COLUMNS * in.K, in.K, count, weights, delta);
        load_rows<3>(in.in[0] + 3 * n, count, mean);
        load_rows<4>(in.in[1] + 4 * n, count, quat);
        for (int i = 0; i < 3; ++i) mean[i] += delta[i];
        for (int i = 0; i < 4; ++i) quat[i] += delta[3 + i];
        store_rows<3>(in.out[0] + 3 * n, count, mean);
        store_rows<4>(in.out[1] + 4 * n, count, quat);
        blend_colors(in.in[2], in.out[2], 3 * in.sh_bases, n, count, delta + 7);
        if (!in.size) continue;
        store_rows<BLEND_COLUMNS>(in.delta + BLEND_COLUMNS * n, count, delta);
        for (int i = 0; i < BLEND_COLUMNS; i += i == 2 ? 5 : 1) square = fma_(delta[i], delta[i], square);
        squares += (double)sum(keep(mask_from_bits(count == 16 ? 0xffffu : (1u << count) - 1), square));
    }
    return squares;
}

static int32_t blend_forward(const AvBlend* args) {
    const AvBlend& in = *args;
    const BlendWeights weights = blend_weights(in.weights, in.K);
    double* parts = (double*)in.scratch;
    const int64_t blocks = (in.N + BLEND_BLOCK - 1) / BLEND_BLOCK;
    parallel_for(in.launch.threads, blocks, [&](int64_t block, int) {
        const int64_t begin = block * BLEND_BLOCK, end = begin + BLEND_BLOCK < in.N ? begin + BLEND_BLOCK : in.N;
        double squares = 0;
        switch ((in.K + 15) / 16) {
            case 1: squares = blend_block<1>(in, begin, end, weights); break;
            case 2: squares = blend_block<2>(in, begin, end, weights); break;
            case 3: squares = blend_block<3>(in, begin, end, weights); break;
            default: squares = blend_block<4>(in, begin, end, weights); break;
        }
        if (in.size) parts[block] = squares;
    });
    if (in.size) {
        double total = 0;
        for (int64_t block = 0; block < blocks; ++block) total += parts[block];
        in.size[0] = (float)(total / (3.0 * (double)(in.N ? in.N : 1)));
    }
    return AV_OK;
}

// The constant colours of rows of `width` floats, from row n on.
AV_INLINE void load_colors(const float* p, int width, int64_t n, int count, F16* out) {
    const float* row[16];
    bool more[16];
    for (int l = 0; l < 16; ++l) row[l] = p + width * (n + (l < count ? l : 0)), more[l] = width > 3;
    gather_threes(row, more, out);
}

static int32_t blend_backward(const AvBlend* args) {
    const AvBlend& in = *args;
    float* parts = (float*)in.scratch;  // [blocks, K]
    const int64_t blocks = (in.N + BLEND_BLOCK - 1) / BLEND_BLOCK, row = BLEND_COLUMNS * in.K;
    const F16 v_square = F16(in.v_size ? 2.0f * in.v_size[0] / (3.0f * (float)in.N) : 0.0f);
    Outer outer;
    outer_tables(in.weights, in.K, outer);
    parallel_for(in.launch.threads, blocks, [&](int64_t block, int) {
        const int64_t begin = block * BLEND_BLOCK, end = begin + BLEND_BLOCK < in.N ? begin + BLEND_BLOCK : in.N, count = end - begin;
        alignas(64) float d[BLEND_COLUMNS * BLEND_BLOCK + OUTER_PAD];
        for (int64_t n = begin; n < end; n += 16) {
            const int here = end - n < 16 ? (int)(end - n) : 16;
            F16 v[16];
            load_rows<3>(in.v_out[0] + 3 * n, here, v);
            load_rows<4>(in.v_out[1] + 4 * n, here, v + 3);
            load_colors(in.v_out[2], 3 * in.sh_bases, n, here, v + 7);
            if (in.v_size) {
                F16 delta[BLEND_COLUMNS];
                load_rows<BLEND_COLUMNS>(in.delta + BLEND_COLUMNS * n, here, delta);
                for (int i = 0; i < BLEND_COLUMNS; i += i == 2 ? 5 : 1) v[i] = fma_(v_square, delta[i], v[i]);
            }
            store_rows<BLEND_COLUMNS>(d + BLEND_COLUMNS * (n - begin), here, v);
        }
        memset(d + BLEND_COLUMNS * count, 0, OUTER_PAD * sizeof(float));
        memcpy(in.v_delta + BLEND_COLUMNS * begin, d, (size_t)(BLEND_COLUMNS * count) * sizeof(float));
        outer_sums(in.basis + begin * row, count * row, d, outer, parts + block * in.K);
    });
    for (int k = 0; k < in.K; ++k) {
        double total = 0;
        for (int64_t block = 0; block < blocks; ++block) total += (double)parts[block * in.K + k];
        in.v_weights[k] = (float)total;
    }
    return AV_OK;
}

// Weights of the penalties, divided by what their means are over.
struct Penalties {
    F16 position, scale, opacity, max_scale;
};

AV_INLINE Penalties penalties_of(float position, float scale, float opacity, float max_scale, int64_t N) {
    const float inv = 1.0f / (float)N;
    return {F16(position * inv), F16(scale * inv / 3.0f), F16(opacity * inv), F16(max_scale)};
}

// Sixteen Gaussians: what they add to the loss, and its gradients to the means, to the logarithms of the plain `scale` and to the logits.
AV_INLINE F16 penalty_lanes(const Penalties& w, const F16* mean, const F16* scale, F16 logit, F16 reach, F16* v_mean, F16* v_scale, F16& v_logit) {
    const F16 one = F16(1.0f), length = sqrt_(mean[0] * mean[0] + mean[1] * mean[1] + mean[2] * mean[2] + F16(1e-12f));
    const M16 outside = length > reach;
    F16 total = keep(outside, w.position * (length - reach));
    const F16 pull = keep(outside, w.position / length), limit = w.max_scale * max_(reach, one);
    for (int i = 0; i < 3; ++i) {
        v_mean[i] = mean[i] * pull;
        const M16 large = scale[i] > limit;
        total += keep(large, w.scale * (scale[i] - limit));
        v_scale[i] = keep(large, w.scale * scale[i]);
    }
    const F16 opacity = one / (one + exp_(-logit));
    v_logit = w.opacity * opacity * (one - opacity);
    return fma_(w.opacity, opacity, total);
}

static int32_t penalty(const AvPenalty* args) {
    const AvPenalty& in = *args;
    double* parts = (double*)in.scratch;
    const int64_t blocks = (in.N + BLEND_BLOCK - 1) / BLEND_BLOCK;
    const Penalties w = penalties_of(in.position_weight, in.scale_weight, in.opacity_weight, in.max_scale, in.N);
    parallel_for(in.launch.threads, blocks, [&](int64_t block, int) {
        const int64_t end = (block + 1) * BLEND_BLOCK < in.N ? (block + 1) * BLEND_BLOCK : in.N;
        double sums = 0;
        for (int64_t n = block * BLEND_BLOCK; n < end; n += 16) {
            const int count = end - n < 16 ? (int)(end - n) : 16;
            const M16 on = mask_from_bits(count == 16 ? 0xffffu : (1u << count) - 1);
            F16 mean[3], scale[3], logit, reach, v_mean[3], v_scale[3], v_logit;
            load_rows<3>(in.means + 3 * n, count, mean);
            load_rows<3>(in.log_scales + 3 * n, count, scale);
            load_rows<1>(in.logit_opacities + n, count, &logit);
            load_rows<1>(in.reach + n, count, &reach);
            for (F16& s : scale) s = exp_(s);
            sums += (double)sum(keep(on, penalty_lanes(w, mean, scale, logit, reach, v_mean, v_scale, v_logit)));
            if (!in.v_means) continue;
            store_rows<3>(in.v_means + 3 * n, count, v_mean);
            store_rows<3>(in.v_log_scales + 3 * n, count, v_scale);
            store_rows<1>(in.v_logit_opacities + n, count, &v_logit);
        }
        parts[block] = sums;
    });
    double total = 0;
    for (int64_t block = 0; block < blocks; ++block) total += parts[block];
    in.loss[0] = (float)total;
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
