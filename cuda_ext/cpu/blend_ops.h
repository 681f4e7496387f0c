// Blendshapes of Gaussians, and the penalties of their training: small work over large arrays, each array read once.
#pragma once
#include "../include/abi.h"
#include "pool.h"
#include "simd.h"

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

// Corrected Gaussians [begin, end); SH: floats of a Gaussian's colour, known to the compiler. Returns the sum of squares for `size`.
template <int REGISTERS_USED, int SH>
static double blend_block(const AvBlend& in, int64_t begin, int64_t end, const BlendRow& weights) {
    F16 squares = F16(0.0f);
    const M16 counted = mask_from_bits(0x387);  // mean and colour
    for (int64_t n = begin; n < end; ++n) {
        const F16 sums = blend_row<REGISTERS_USED>(in.basis + n * BLEND_COLUMNS * in.K, in.K, weights);
        alignas(64) float delta[16];
        store(delta, sums);
        for (int i = 0; i < 3; ++i) in.out[0][3 * n + i] = in.in[0][3 * n + i] + delta[i];
        for (int i = 0; i < 4; ++i) in.out[1][4 * n + i] = in.in[1][4 * n + i] + delta[3 + i];
        const float* color = in.in[2] + SH * n;
        float* colored = in.out[2] + SH * n;
        for (int i = 0; i < 3; ++i) colored[i] = color[i] + delta[7 + i];
        for (int i = 3; i < SH; ++i) colored[i] = color[i];
        if (!in.size) continue;
        memcpy(in.delta + BLEND_COLUMNS * n, delta, BLEND_COLUMNS * sizeof(float));
        squares = fma_(sums, keep(counted, sums), squares);
    }
    return (double)sum(squares);
}

template <int REGISTERS_USED>
static double blend_any(const AvBlend& in, int64_t begin, int64_t end, const BlendRow& weights) {
    switch (in.sh_bases) {
        case 1: return blend_block<REGISTERS_USED, 3>(in, begin, end, weights);
        case 4: return blend_block<REGISTERS_USED, 12>(in, begin, end, weights);
        case 9: return blend_block<REGISTERS_USED, 27>(in, begin, end, weights);
        default: return blend_block<REGISTERS_USED, 48>(in, begin, end, weights);
    }
}

static int32_t blend_forward(const AvBlend* args) {
    const AvBlend& in = *args;
    const BlendRow weights = load_blend_row(in.weights, in.K);
    double* parts = (double*)in.scratch;
    const int64_t blocks = (in.N + BLEND_BLOCK - 1) / BLEND_BLOCK;
    parallel_for(in.launch.threads, blocks, [&](int64_t block, int) {
        const int64_t begin = block * BLEND_BLOCK, end = begin + BLEND_BLOCK < in.N ? begin + BLEND_BLOCK : in.N;
        double squares = 0;
        switch ((in.K + 15) / 16) {
            case 1: squares = blend_any<1>(in, begin, end, weights); break;
            case 2: squares = blend_any<2>(in, begin, end, weights); break;
            case 3: squares = blend_any<3>(in, begin, end, weights); break;
            default: squares = blend_any<4>(in, begin, end, weights); break;
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

// Sums of several rows at once: one chain of additions would wait four cycles for each row.
template <int REGISTERS_USED>
static void blend_block_backward(const AvBlend& in, int64_t begin, int64_t end, float* v_weights) {
    const int K = in.K, tail = K - 16 * (REGISTERS_USED - 1);
    const int64_t sh = 3 * (int64_t)in.sh_bases;
    enum { CHAINS = REGISTERS_USED == 1 ? 5 : 2 };
    F16 total[CHAINS][REGISTERS_USED];
    for (int chain = 0; chain < CHAINS; ++chain)
        for (int i = 0; i < REGISTERS_USED; ++i) total[chain][i] = F16(0.0f);
    const float v_square = in.v_size ? 2.0f * in.v_size[0] / (3.0f * (float)in.N) : 0.0f;
    for (int64_t n = begin; n < end; ++n) {
        float v[BLEND_COLUMNS];
        for (int i = 0; i < 3; ++i) v[i] = in.v_out[0][3 * n + i];
        for (int i = 0; i < 4; ++i) v[3 + i] = in.v_out[1][4 * n + i];
        for (int i = 0; i < 3; ++i) v[7 + i] = in.v_out[2][sh * n + i];
        if (in.v_size) {
            const float* delta = in.delta + BLEND_COLUMNS * n;
            for (int i = 0; i < 3; ++i) v[i] += v_square * delta[i], v[7 + i] += v_square * delta[7 + i];
        }
        memcpy(in.v_delta + n * BLEND_COLUMNS, v, sizeof v);
        const float* p = in.basis + n * BLEND_COLUMNS * K;
        for (int c = 0; c < BLEND_COLUMNS; ++c, p += K) {
            F16* sums = total[c % CHAINS];
            for (int i = 0; i + 1 < REGISTERS_USED; ++i) sums[i] = fma_(F16(v[c]), load(p + 16 * i), sums[i]);
            sums[REGISTERS_USED - 1] = fma_(F16(v[c]), load_part(p + 16 * (REGISTERS_USED - 1), tail), sums[REGISTERS_USED - 1]);
        }
    }
    for (int i = 0; i < REGISTERS_USED; ++i) {
        for (int chain = 1; chain < CHAINS; ++chain) total[0][i] += total[chain][i];
        store_part(v_weights + 16 * i, total[0][i], i + 1 < REGISTERS_USED ? 16 : tail);
    }
}

static int32_t blend_backward(const AvBlend* args) {
    const AvBlend& in = *args;
    float* parts = (float*)in.scratch;  // [blocks, K]
    const int64_t blocks = (in.N + BLEND_BLOCK - 1) / BLEND_BLOCK;
    parallel_for(in.launch.threads, blocks, [&](int64_t block, int) {
        const int64_t begin = block * BLEND_BLOCK, end = begin + BLEND_BLOCK < in.N ? begin + BLEND_BLOCK : in.N;
        float* part = parts + block * in.K;
        switch ((in.K + 15) / 16) {
            case 1: blend_block_backward<1>(in, begin, end, part); break;
            case 2: blend_block_backward<2>(in, begin, end, part); break;
            case 3: blend_block_backward<3>(in, begin, end, part); break;
            default: blend_block_backward<4>(in, begin, end, part); break;
        }
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
