// Structural similarity with L1, and the gradient, in one sweep over strips of rows.
//
// Four blurred quantities suffice, since the variances only occur as their sum: E[a], E[b], E[a²+b²], E[ab]. The gradient
// blurs three maps with the same window. A strip is worked in columns narrow enough for the first cache: horizontally, then
// vertically. Pixels are interleaved RGB: one tap is three floats.
#pragma once
#include "../include/abi.h"
#include "../include/semantics.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

enum {
    SSIM_R = AV_SSIM_RADIUS,
    SSIM_TAPS = 2 * AV_SSIM_RADIUS + 1,
    SSIM_PAD = 48,   // floats left and right of a padded row: three registers, more than 3·AV_SSIM_RADIUS
    SSIM_COLUMN = 64  // floats of a column block
};

struct SsimWindow {
    float w[SSIM_R + 1];  // from the centre outwards
};

AV_INLINE SsimWindow ssim_window() {
    double sum = 0, raw[SSIM_R + 1];
    for (int i = 0; i <= SSIM_R; ++i) {
        raw[i] = exp(-0.5 * i * i / (AV_SSIM_SIGMA * AV_SSIM_SIGMA));
        sum += i ? 2 * raw[i] : raw[i];
    }
    SsimWindow window;
    for (int i = 0; i <= SSIM_R; ++i) window.w[i] = (float)(raw[i] / sum);
    return window;
}

struct SsimStrips {
    int64_t rows;    // output rows of a strip
    int64_t count;   // strips of an image
    int64_t stride;  // floats of a padded row
    int64_t bytes;   // scratch of one strip
};

AV_INLINE SsimStrips ssim_strips(int32_t height, int32_t width, int32_t threads) {
    SsimStrips s;
    s.rows = (height + threads - 1) / threads;
    if (s.rows > 64) s.rows = 64;
    s.count = (height + s.rows - 1) / s.rows;
    s.stride = (3 * (int64_t)width + SSIM_COLUMN - 1) / SSIM_COLUMN * SSIM_COLUMN + 2 * SSIM_PAD;
    const int64_t source = (s.rows + 4 * SSIM_R) * s.stride * 4, maps = (s.rows + 2 * SSIM_R) * s.stride * 3;
    s.bytes = (source + maps + (s.rows + 4 * SSIM_R) * 4 * SSIM_COLUMN) * (int64_t)sizeof(float) + 64;
    return s;
}

static int32_t ssim_sizes(int64_t B, int32_t height, int32_t width, int32_t threads, int64_t* saved, int64_t* scratch) {
    *saved = B * height * width * 3 * (int64_t)sizeof(float);
    *scratch = 64 + 2 * B * height * (int64_t)sizeof(double) + threads * ssim_strips(height, width, threads).bytes;
    return AV_OK;
}

// Blurs SSIM_COLUMN values at `p`, 64-byte aligned, along the row.
AV_INLINE void blur_horizontal(const float* p, float* out, const SsimWindow& window) {
#if AV_ISA >= 512
    // Shifted registers are cut from aligned neighbours: half the cost of loads that cross cache lines.
    __m512 left = _mm512_load_ps(p - 16), here = _mm512_load_ps(p);
    for (int i = 0; i < SSIM_COLUMN; i += 16) {
        const __m512 right = _mm512_load_ps(p + i + 16);
        const __m512i l = _mm512_castps_si512(left), h = _mm512_castps_si512(here), r = _mm512_castps_si512(right);
        F16 total = F16(window.w[0]) * F16(here);
#define AV_TAP(k)                                                                     \
    total = fma_(F16(window.w[k]),                                                    \
                 F16(_mm512_castsi512_ps(_mm512_alignr_epi32(h, l, 16 - 3 * k))) +    \
                     F16(_mm512_castsi512_ps(_mm512_alignr_epi32(r, h, 3 * k))),      \
                 total)
        AV_TAP(1);
        AV_TAP(2);
        AV_TAP(3);
        AV_TAP(4);
        AV_TAP(5);
#undef AV_TAP
        store(out + i, total);
        left = here, here = right;
    }
#else
    for (int i = 0; i < SSIM_COLUMN; i += 16) {
        F16 total = F16(window.w[0]) * load(p + i);
        for (int k = 1; k <= SSIM_R; ++k) total = fma_(F16(window.w[k]), load(p + i - 3 * k) + load(p + i + 3 * k), total);
        store(out + i, total);
    }
#endif
}

// Blurs one register's width down `count` + 2·SSIM_R rows of a column, in place: row r becomes the blur centred on r + SSIM_R. The
// window slides through registers, one load per row.
AV_INLINE void blur_vertical(float* p, int64_t stride, int64_t count, const SsimWindow& window) {
    F16 rows[SSIM_TAPS];
    for (int j = 0; j < SSIM_TAPS - 1; ++j) rows[j] = load(p + j * stride);
    for (int64_t r = 0; r < count; r += SSIM_TAPS) {
#pragma GCC unroll 11
        for (int j = 0; j < SSIM_TAPS; ++j) {  // row r + j is the oldest, at rows[j]
            if (r + j >= count) return;
            rows[(j + SSIM_TAPS - 1) % SSIM_TAPS] = load(p + (r + j + SSIM_TAPS - 1) * stride);
            F16 total = F16(window.w[0]) * rows[(j + SSIM_R) % SSIM_TAPS];
#pragma GCC unroll 5
            for (int k = 1; k <= SSIM_R; ++k)
                total = fma_(F16(window.w[k]), rows[(j + SSIM_R - k) % SSIM_TAPS] + rows[(j + SSIM_R + k) % SSIM_TAPS], total);
            store(p + (r + j) * stride, total);
        }
    }
}

struct SsimJob {
    const AvSsim* args;
    SsimWindow window;
    SsimStrips strips;
    double *l1, *ssim;  // [B, H] row sums
    float inv_count;    // 1 / number of values in the mean
};

// Weight of pixel (y, x) in the sums; 0 in the crop.
AV_INLINE float ssim_weight(const AvSsim& a, int64_t b, int64_t y, int64_t x) {
    if (y < a.crop || y >= a.height - a.crop || x < a.crop || x >= a.width - a.crop) return 0.0f;
    return a.weights ? a.weights[(b * a.height + y) * a.width + x] : 1.0f;
}

// The same for the sixteen interleaved values from `at` of row y, times `scale`; values beyond the row count nothing.
AV_INLINE F16 ssim_weights(const AvSsim& a, int64_t b, int64_t y, int64_t at, float scale) {
    const int64_t W3 = 3 * (int64_t)a.width;
    if (y < a.crop || y >= a.height - a.crop) return F16(0.0f);
    if (at >= 3 * a.crop && at + 16 <= W3 - 3 * a.crop) {
        if (!a.weights) return F16(scale);
        const float* w = a.weights + (b * a.height + y) * a.width + at / 3;  // at most six pixels
#if AV_ISA >= 512
        alignas(64) static const int32_t pixel[3][16] = {{0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5},
                                                         {0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5},
                                                         {0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5}};
        return F16(scale) * F16(_mm512_permutexvar_ps(_mm512_load_si512(pixel[at % 3]), _mm512_maskz_loadu_ps(0x3f, w)));
#else
        alignas(64) float lanes[16];
        const int phase = (int)(at % 3);
        for (int l = 0; l < 16; ++l) lanes[l] = w[(phase + l) / 3];
        return F16(scale) * load(lanes);
#endif
    }
    alignas(64) float lanes[16];
    for (int l = 0; l < 16; ++l) lanes[l] = at + l < W3 ? ssim_weight(a, b, y, (at + l) / 3) * scale : 0.0f;
    return load(lanes);
}

static void ssim_strip(const SsimJob& job, int64_t b, int64_t strip, float* scratch) {
    const AvSsim& in = *job.args;
    const int64_t stride = job.strips.stride, W3 = 3 * (int64_t)in.width;
    const int64_t y0 = strip * job.strips.rows, y1 = y0 + job.strips.rows < in.height ? y0 + job.strips.rows : in.height;
    const bool gradient = in.saved != nullptr;
    const int64_t m0 = gradient ? y0 - SSIM_R : y0, m1 = gradient ? y1 + SSIM_R : y1;  // rows of the maps
    const int64_t s0 = m0 - SSIM_R, s1 = m1 + SSIM_R;                                  // rows of the sources
    const int64_t source_rows = s1 - s0, map_rows = m1 - m0;
    float* source[4];
    for (int q = 0; q < 4; ++q) source[q] = scratch + q * source_rows * stride;
    float* maps = scratch + 4 * (job.strips.rows + 4 * SSIM_R) * stride;
    float* column = maps + 3 * (job.strips.rows + 2 * SSIM_R) * stride;
    const SsimWindow& window = job.window;

    // Sources, padded with black.
    for (int64_t r = 0; r < source_rows; ++r) {
        const int64_t y = s0 + r;
        if (y < 0 || y >= in.height) {
            for (int q = 0; q < 4; ++q) memset(source[q] + r * stride, 0, (size_t)stride * sizeof(float));
            continue;
        }
        const float *a = in.a + (b * in.height + y) * W3, *c = in.b + (b * in.height + y) * W3;
        for (int q = 0; q < 4; ++q) {
            memset(source[q] + r * stride, 0, SSIM_PAD * sizeof(float));
            memset(source[q] + r * stride + SSIM_PAD + W3 / 16 * 16, 0, (size_t)(stride - SSIM_PAD - W3 / 16 * 16) * sizeof(float));
        }
        const int64_t at = r * stride + SSIM_PAD;
        for (int64_t i = 0; i < W3; i += 16) {
            const int n = W3 - i < 16 ? (int)(W3 - i) : 16;
            const F16 va = n == 16 ? load(a + i) : load_part(a + i, n), vb = n == 16 ? load(c + i) : load_part(c + i, n);
            store(source[0] + at + i, va), store(source[1] + at + i, vb);
            store(source[2] + at + i, fma_(va, va, vb * vb)), store(source[3] + at + i, va * vb);
        }
    }
    // The similarity and its derivative maps, column block by column block.
    if (gradient) {
        for (int64_t r = 0; r < 3 * map_rows; ++r) {
            memset(maps + r * stride, 0, SSIM_PAD * sizeof(float));
            const int64_t tail = SSIM_PAD + (W3 + 15) / 16 * 16;
            memset(maps + r * stride + tail, 0, (size_t)(stride - tail) * sizeof(float));
        }
    }
    double ssim_sums[64] = {};
    const F16 c1 = F16(AV_SSIM_C1), c2 = F16(AV_SSIM_C2), two = F16(2.0f);
    for (int64_t left = 0; left < W3; left += SSIM_COLUMN) {
        for (int64_t r = 0; r < source_rows; ++r)
            for (int q = 0; q < 4; ++q)
                blur_horizontal(source[q] + r * stride + SSIM_PAD + left, column + (r * 4 + q) * SSIM_COLUMN, window);
        for (int i = 0; i < 4 * SSIM_COLUMN; i += 16) blur_vertical(column + i, 4 * SSIM_COLUMN, map_rows, window);
        for (int i = 0; i < SSIM_COLUMN && left + i < W3; i += 16) {
            for (int64_t r = 0; r < map_rows; ++r) {
                const int64_t y = m0 + r;
                if (y < 0 || y >= in.height) {
                    if (gradient)
                        for (int q = 0; q < 3; ++q) store(maps + (q * map_rows + r) * stride + SSIM_PAD + left + i, F16(0.0f));
                    continue;
                }
                F16 e[4];
                for (int q = 0; q < 4; ++q) e[q] = load(column + (r * 4 + q) * SSIM_COLUMN + i);
                const F16 square_a = e[0] * e[0], square_b = e[1] * e[1], product = e[0] * e[1];
                const F16 A1 = two * product + c1, A2 = two * (e[3] - product) + c2;
                const F16 B1 = square_a + square_b + c1, B2 = e[2] - square_a - square_b + c2;
                const F16 inv_B1 = reciprocal(B1), inv_B2 = reciprocal(B2), inv = inv_B1 * inv_B2, S = A1 * A2 * inv;
                const F16 weight = ssim_weights(in, b, y, left + i, job.inv_count);
                if (y >= y0 && y < y1) ssim_sums[y - y0] += (double)sum(weight * S);
                if (!gradient) continue;
                float* to = maps + r * stride + SSIM_PAD + left + i;
                store(to, weight * two * (e[1] * (A2 - A1) * inv - e[0] * S * (inv_B1 - inv_B2)));
                store(to + map_rows * stride, -(weight * S * inv_B2));
                store(to + 2 * map_rows * stride, weight * two * A1 * inv);
            }
        }
    }
    for (int64_t y = y0; y < y1; ++y) {
        job.ssim[b * in.height + y] = ssim_sums[y - y0];
        if (!in.l1) continue;
        const float *a = in.a + (b * in.height + y) * W3, *c = in.b + (b * in.height + y) * W3;
        F16 total = F16(0.0f);
        for (int64_t i = 0; i < W3; i += 16) {
            const int n = W3 - i < 16 ? (int)(W3 - i) : 16;
            total = fma_(ssim_weights(in, b, y, i, 1.0f), abs_(load_part(a + i, n) - load_part(c + i, n)), total);
        }
        job.l1[b * in.height + y] = (double)sum(total) * (double)job.inv_count;
    }
    if (!gradient) return;
    // ∂/∂a = blur(∂/∂E[a]) + 2a blur(∂/∂E[a²+b²]) + b blur(∂/∂E[ab])
    float* out = (float*)in.saved + b * in.height * W3;
    for (int64_t left = 0; left < W3; left += SSIM_COLUMN) {
        for (int64_t r = 0; r < map_rows; ++r)
            for (int q = 0; q < 3; ++q)
                blur_horizontal(maps + (q * map_rows + r) * stride + SSIM_PAD + left, column + (r * 3 + q) * SSIM_COLUMN, window);
        for (int i = 0; i < 3 * SSIM_COLUMN; i += 16) blur_vertical(column + i, 3 * SSIM_COLUMN, y1 - y0, window);
        for (int i = 0; i < SSIM_COLUMN && left + i < W3; i += 16) {
            const int n = W3 - left - i < 16 ? (int)(W3 - left - i) : 16;
            for (int64_t y = y0; y < y1; ++y) {
                F16 e[3];
                for (int q = 0; q < 3; ++q) e[q] = load(column + ((y - y0) * 3 + q) * SSIM_COLUMN + i);
                const int64_t at = (y - s0) * stride + SSIM_PAD + left + i;
                const F16 g = e[0] + two * load(source[0] + at) * e[1] + load(source[1] + at) * e[2];
                store_part(out + y * W3 + left + i, g, n);
            }
        }
    }
}

static int32_t ssim_forward(const AvSsim* args) {
    const int threads = args->launch.threads;
    SsimJob job;
    job.args = args, job.window = ssim_window();
    job.strips = ssim_strips(args->height, args->width, threads);
    job.inv_count = (float)(1.0 / (3.0 * (args->height - 2 * args->crop) * (args->width - 2 * args->crop)));
    char* base = (char*)(((uintptr_t)args->scratch + 63) / 64 * 64);
    float* strips = (float*)base;
    job.l1 = (double*)(base + threads * job.strips.bytes);
    job.ssim = job.l1 + args->B * args->height;
    parallel_for(threads, args->B * job.strips.count, [&](int64_t task, int worker) {
        ssim_strip(job, task / job.strips.count, task % job.strips.count, strips + worker * (job.strips.bytes / 4));
    });
    for (int64_t b = 0; b < args->B; ++b) {
        double l1 = 0, ssim = 0;
        for (int64_t y = 0; y < args->height; ++y) {
            if (args->l1) l1 += job.l1[b * args->height + y];
            ssim += job.ssim[b * args->height + y];
        }
        if (args->l1) args->l1[b] = (float)l1;
        args->ssim[b] = (float)ssim;
    }
    return AV_OK;
}

static int32_t ssim_backward(const AvSsimBackward* args) {
    const int64_t W3 = 3 * (int64_t)args->width;
    const float inv_count = (float)(1.0 / (3.0 * (args->height - 2 * args->crop) * (args->width - 2 * args->crop)));
    AvSsim in;
    memset(&in, 0, sizeof in);
    in.height = args->height, in.width = args->width, in.crop = args->crop, in.weights = args->weights;
    parallel_for(args->launch.threads, args->B * ((args->height + 15) / 16), [&](int64_t task, int) {
        const int64_t strips = (args->height + 15) / 16, b = task / strips, y0 = task % strips * 16;
        const int64_t y1 = y0 + 16 < args->height ? y0 + 16 : args->height;
        const F16 v_ssim = F16(args->v_ssim[b]), zero = F16(0.0f);
        const float v_l1 = args->v_l1 ? args->v_l1[b] * inv_count : 0.0f;
        for (int64_t y = y0; y < y1; ++y) {
            const int64_t row = (b * args->height + y) * W3;
            for (int64_t i = 0; i < W3; i += 16) {
                const int n = W3 - i < 16 ? (int)(W3 - i) : 16;
                const F16 difference = load_part(args->a + row + i, n) - load_part(args->b + row + i, n);
                const F16 step = ssim_weights(in, b, y, i, v_l1);
                const F16 l1 = select(difference > zero, step, select(difference < zero, -step, zero));
                store_part(args->v_a + row + i, fma_(v_ssim, load_part((const float*)args->saved + row + i, n), l1), n);
            }
        }
    });
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
