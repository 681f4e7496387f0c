// Structural similarity with L1, and the gradient, in one sweep over the rows.
//
// Four blurred quantities suffice, since the variances only occur as their sum: E[a], E[b], E[a²+b²], E[ab]. The gradient
// blurs three maps with the same window.
//
// A row is cut into sixteen segments, one per lane: neighbouring pixels of a lane are neighbouring registers, so that a blur along
// the row slides through registers exactly like one down the rows, with no shuffles but those at the segments' ends. Pixels are
// interleaved RGB: one tap is three registers. Rows pass through rings just long enough for the window, so that all stays in the
// second cache and nothing is computed twice.
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
    SSIM_HALO = 3 * AV_SSIM_RADIUS,  // registers beyond either end of a segment
    SSIM_CHUNK = 8,                  // rows at a time
    SSIM_RING = SSIM_CHUNK + 2 * AV_SSIM_RADIUS
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

struct SsimLayout {
    int64_t pixels;     // of a segment; at least the radius, so that a halo reaches into one neighbour only
    int64_t registers;  // of a row of one quantity
    int64_t wide;       // the same with halos
    int64_t rows;       // output rows of a strip
    int64_t strips;     // of an image
    int64_t floats;     // scratch of one thread
};

AV_INLINE SsimLayout ssim_layout(int32_t height, int32_t width, int32_t threads) {
    SsimLayout s;
    s.pixels = (width + 15) / 16;
    if (s.pixels < SSIM_R) s.pixels = SSIM_R;
    s.registers = 3 * s.pixels, s.wide = s.registers + 2 * SSIM_HALO;
    s.rows = (height + threads - 1) / threads;
    if (s.rows < 32) s.rows = 32;
    s.strips = (height + s.rows - 1) / s.rows;
    s.floats = 16 * (2 * s.wide + SSIM_RING * 7 * s.registers + SSIM_CHUNK * (3 * s.wide + 2 * s.registers + s.pixels) + 2 * s.pixels);
    return s;
}

static int32_t ssim_sizes(int64_t B, int32_t height, int32_t width, int32_t threads, int64_t* saved, int64_t* scratch) {
    *saved = B * height * width * 3 * (int64_t)sizeof(float);
    *scratch = 64 + 2 * B * height * (int64_t)sizeof(double) + threads * ssim_layout(height, width, threads).floats * (int64_t)sizeof(float);
    return AV_OK;
}

// `count` floats of a row become segments of `n`, register by register, and back; zero where the row has ended.
AV_INLINE void load_segments(const float* row, int64_t count, int64_t n, float* out) {
    for (int64_t j = 0; j < n; j += 16) {
        F16 r[16];
        for (int64_t l = 0; l < 16; ++l) {
            const int64_t at = l * n + j, left = count - at;
            r[l] = left >= 16 ? load(row + at) : left > 0 ? load_part(row + at, (int)left) : F16(0.0f);
        }
        transpose(r);
        for (int64_t i = 0; i < 16 && j + i < n; ++i) store(out + 16 * (j + i), r[i]);
    }
}
AV_INLINE void store_segments(float* row, int64_t count, int64_t n, const float* in) {
    for (int64_t j = 0; j < n; j += 16) {
        F16 r[16];
        for (int64_t i = 0; i < 16; ++i) r[i] = j + i < n ? load(in + 16 * (j + i)) : F16(0.0f);
        transpose(r);
        for (int64_t l = 0; l < 16; ++l) {
            const int64_t at = l * n + j, room = n - j < 16 ? n - j : 16, left = count - at < room ? count - at : room;
            if (left > 0) store_part(row + at, r[l], (int)left);
        }
    }
}

// Fills the halos of a row of `n` registers at `row` from the neighbouring lanes; black beyond the image.
AV_INLINE void fill_halos(float* row, int64_t n) {
    for (int64_t j = 0; j < SSIM_HALO; ++j) {
        store(row + 16 * (j - SSIM_HALO), lanes_up(load(row + 16 * (n - SSIM_HALO + j))));
        store(row + 16 * (n + j), lanes_down(load(row + 16 * j)));
    }
}

AV_INLINE F16 blurred(const F16* taps, int oldest, const SsimWindow& window) {
    F16 total = F16(window.w[0]) * taps[(oldest + SSIM_R) % SSIM_TAPS];
#pragma GCC unroll 5
    for (int k = 1; k <= SSIM_R; ++k)
        total = fma_(F16(window.w[k]), taps[(oldest + SSIM_R - k) % SSIM_TAPS] + taps[(oldest + SSIM_R + k) % SSIM_TAPS], total);
    return total;
}

// Blurs a row along itself; tap(offset) is what to blur at a register counted in floats, halos included. The window slides through
// registers, one tap per result.
template <class Tap>
AV_INLINE void blur_row(const Tap& tap, float* out, int64_t pixels, const SsimWindow& window) {
    for (int c = 0; c < 3; ++c) {
        const int64_t from = 16 * (c - SSIM_HALO);
        float* to = out + 16 * c;
        F16 taps[SSIM_TAPS];
        for (int k = 0; k < SSIM_TAPS - 1; ++k) taps[k] = tap(from + 48 * k);
        for (int64_t i = 0; i < pixels; i += SSIM_TAPS) {
#pragma GCC unroll 11
            for (int k = 0; k < SSIM_TAPS; ++k) {  // pixel i + k: the oldest tap is at taps[k]
                if (i + k >= pixels) break;
                taps[(k + SSIM_TAPS - 1) % SSIM_TAPS] = tap(from + 48 * (i + k + SSIM_TAPS - 1));
                store(to + 48 * (i + k), blurred(taps, k, window));
            }
        }
    }
}

// Blurs one register's width down a ring: row k of `out` is centred on ring row k + SSIM_R.
AV_INLINE void blur_down(const float* in, const int64_t* ring, F16* out, const SsimWindow& window) {
    F16 taps[SSIM_TAPS];
#pragma GCC unroll 10
    for (int k = 0; k < SSIM_TAPS - 1; ++k) taps[k] = load(in + ring[k]);
#pragma GCC unroll 8
    for (int k = 0; k < SSIM_CHUNK; ++k) {
        taps[(k + SSIM_TAPS - 1) % SSIM_TAPS] = load(in + ring[k + SSIM_TAPS - 1]);
        out[k] = blurred(taps, k % SSIM_TAPS, window);
    }
}

struct SsimJob {
    const AvSsim* args;
    SsimWindow window;
    SsimLayout layout;
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

// One strip of one image: everything that a thread keeps while its rows pass.
struct SsimStrip {
    const SsimJob& job;
    const AvSsim& in;
    const SsimLayout& layout;
    int64_t image, y0, y1, first_map, first_source;
    float *source, *sources, *maps, *map_rings, *pixels, *weights, *plain, *none;

    AV_INLINE SsimStrip(const SsimJob& j, int64_t b, int64_t strip, float* scratch)
        : job(j), in(*j.args), layout(j.layout), image(b), y0(strip * j.layout.rows) {
        y1 = y0 + layout.rows < in.height ? y0 + layout.rows : in.height;
        first_map = in.saved ? y0 - SSIM_R : y0, first_source = first_map - SSIM_R;
        float* at = scratch;
        const auto take = [&](int64_t registers) {
            float* p = at;
            at += 16 * registers;
            return p;
        };
        source = take(2 * layout.wide);                       // [2, wide] the row being read
        sources = take(SSIM_RING * 4 * layout.registers);     // [ring, 4, registers] blurred along the row
        maps = take(SSIM_CHUNK * 3 * layout.wide);            // [chunk, 3, wide]
        map_rings = take(SSIM_RING * 3 * layout.registers);   // [ring, 3, registers]
        pixels = take(SSIM_CHUNK * 2 * layout.registers);     // [chunk, 2, registers] a and b again
        weights = take(SSIM_CHUNK * layout.pixels);           // [chunk, pixels]
        plain = take(layout.pixels), none = take(layout.pixels);
        for (int64_t p = 0; p < layout.pixels; ++p) {
            alignas(64) float lanes[16];
            for (int64_t l = 0; l < 16; ++l) {
                const int64_t x = l * layout.pixels + p;
                lanes[l] = x >= in.crop && x < in.width - in.crop ? job.inv_count : 0.0f;
            }
            store(plain + 16 * p, load(lanes)), store(none + 16 * p, F16(0.0f));
        }
    }

    // Reads source row y and blurs its four quantities along it, into the ring; black outside of the image.
    AV_INLINE void read_row(int64_t y) {
        const int64_t n = layout.registers, wide = layout.wide, W3 = 3 * (int64_t)in.width;
        float* to = sources + (y - first_source) % SSIM_RING * 4 * n * 16;
        if (y < 0 || y >= in.height) {
            memset(to, 0, (size_t)(4 * n * 16) * sizeof(float));
            return;
        }
        float *a = source + 16 * SSIM_HALO, *b = a + 16 * wide;
        load_segments(in.a + (image * in.height + y) * W3, W3, n, a);
        load_segments(in.b + (image * in.height + y) * W3, W3, n, b);
        fill_halos(a, n), fill_halos(b, n);
        const auto square = [=](int64_t i) {
            const F16 va = load(a + i), vb = load(b + i);
            return fma_(va, va, vb * vb);
        };
        blur_row([=](int64_t i) { return load(a + i); }, to, layout.pixels, job.window);
        blur_row([=](int64_t i) { return load(b + i); }, to + 16 * n, layout.pixels, job.window);
        blur_row(square, to + 32 * n, layout.pixels, job.window);
        blur_row([=](int64_t i) { return load(a + i) * load(b + i); }, to + 48 * n, layout.pixels, job.window);
    }

    // The weights of map row y, `pixels` registers.
    AV_INLINE const float* row_weights(int64_t y, int k) {
        if (y < in.crop || y >= in.height - in.crop) return none;
        if (!in.weights) return plain;
        float* to = weights + 16 * k * layout.pixels;
        load_segments(in.weights + (image * in.height + y) * in.width, in.width, layout.pixels, to);
        for (int64_t p = 0; p < layout.pixels; ++p) store(to + 16 * p, load(to + 16 * p) * load(plain + 16 * p));
        return to;
    }

    // Similarity of `count` rows from m on, and their derivative maps.
    AV_INLINE void map_rows(int64_t m, int count) {
        const int64_t n = layout.registers, wide = layout.wide;
        int64_t ring[SSIM_RING];
        for (int k = 0; k < SSIM_RING; ++k) ring[k] = (m - SSIM_R + k - first_source) % SSIM_RING * 4 * n * 16;
        const float* weight_rows[SSIM_CHUNK];
        for (int k = 0; k < count; ++k) weight_rows[k] = row_weights(m + k, k);
        F16 similarity[SSIM_CHUNK];
        for (int k = 0; k < SSIM_CHUNK; ++k) similarity[k] = F16(0.0f);
        const F16 c1 = F16(AV_SSIM_C1), c2 = F16(AV_SSIM_C2), two = F16(2.0f);
        for (int64_t j = 0; j < n; ++j) {
            F16 e[4][SSIM_CHUNK];
            for (int q = 0; q < 4; ++q) blur_down(sources + 16 * (q * n + j), ring, e[q], job.window);
            for (int k = 0; k < count; ++k) {
                const F16 a = e[0][k], b = e[1][k], square_a = a * a, square_b = b * b, product = a * b;
                const F16 A1 = fma_(two, product, c1), A2 = fma_(two, e[3][k] - product, c2);
                const F16 B1 = square_a + square_b + c1, B2 = e[2][k] - square_a - square_b + c2;
                const F16 inv_B1 = reciprocal(B1), inv_B2 = reciprocal(B2), inv = inv_B1 * inv_B2, S = A1 * A2 * inv;
                const F16 weight = load(weight_rows[k] + 16 * (j / 3));
                similarity[k] = fma_(weight, S, similarity[k]);
                if (!in.saved) continue;
                float* to = maps + 16 * (k * 3 * wide + SSIM_HALO + j);
                const F16 twice = weight * two * inv;
                store(to, fma_(b * (A2 - A1), twice, -(weight * two * a * S * (inv_B1 - inv_B2))));
                store(to + 16 * wide, -(weight * S * inv_B2));
                store(to + 32 * wide, A1 * twice);
            }
        }
        for (int k = 0; k < count; ++k) {
            const int64_t y = m + k;
            if (y >= y0 && y < y1) job.ssim[image * in.height + y] = (double)sum(similarity[k]);
            if (!in.saved) continue;
            for (int q = 0; q < 3; ++q) {
                float* to = map_rings + 16 * ((y - first_map) % SSIM_RING * 3 + q) * n;
                float* row = maps + 16 * ((k * 3 + q) * wide + SSIM_HALO);
                if (y < 0 || y >= in.height) {
                    memset(to, 0, (size_t)(n * 16) * sizeof(float));
                    continue;
                }
                fill_halos(row, n);
                blur_row([=](int64_t i) { return load(row + i); }, to, layout.pixels, job.window);
            }
        }
    }

    // ∂/∂a = blur(∂/∂E[a]) + 2a blur(∂/∂E[a²+b²]) + b blur(∂/∂E[ab]) of `count` rows from y on.
    AV_INLINE void gradient_rows(int64_t y, int count) {
        const int64_t n = layout.registers, W3 = 3 * (int64_t)in.width;
        int64_t ring[SSIM_RING];
        for (int k = 0; k < SSIM_RING; ++k) ring[k] = (y - SSIM_R + k - first_map) % SSIM_RING * 3 * n * 16;
        for (int k = 0; k < count; ++k) {
            load_segments(in.a + (image * in.height + y + k) * W3, W3, n, pixels + 16 * 2 * k * n);
            load_segments(in.b + (image * in.height + y + k) * W3, W3, n, pixels + 16 * (2 * k + 1) * n);
        }
        for (int64_t j = 0; j < n; ++j) {
            F16 e[3][SSIM_CHUNK];
            for (int q = 0; q < 3; ++q) blur_down(map_rings + 16 * (q * n + j), ring, e[q], job.window);
            for (int k = 0; k < count; ++k) {
                float* a = pixels + 16 * (2 * k * n + j);
                const F16 va = load(a);
                store(a, fma_(va + va, e[1][k], fma_(load(a + 16 * n), e[2][k], e[0][k])));
            }
        }
        for (int k = 0; k < count; ++k)
            store_segments((float*)in.saved + (image * in.height + y + k) * W3, W3, n, pixels + 16 * 2 * k * n);
    }

    AV_INLINE void run() {
        const int64_t last_map = in.saved ? y1 + SSIM_R : y1;
        int64_t read = first_source, done = y0;
        for (int64_t m = first_map; m < last_map; m += SSIM_CHUNK) {
            const int count = last_map - m < SSIM_CHUNK ? (int)(last_map - m) : SSIM_CHUNK;
            for (; read < m + count + SSIM_R; ++read) read_row(read);
            map_rows(m, count);
            const int64_t ready = m + count - SSIM_R;
            if (!in.saved || ready <= done) continue;
            gradient_rows(done, (int)(ready - done));
            done = ready;
        }
    }
};

static void ssim_strip(const SsimJob& job, int64_t b, int64_t strip, float* scratch) {
    SsimStrip rows(job, b, strip, scratch);
    rows.run();
    const AvSsim& in = *job.args;
    if (!in.l1) return;
    const int64_t W3 = 3 * (int64_t)in.width;
    for (int64_t y = rows.y0; y < rows.y1; ++y) {
        const float *a = in.a + (b * in.height + y) * W3, *c = in.b + (b * in.height + y) * W3;
        F16 total = F16(0.0f);
        for (int64_t i = 0; i < W3; i += 16) {
            const int n = W3 - i < 16 ? (int)(W3 - i) : 16;
            total = fma_(ssim_weights(in, b, y, i, 1.0f), abs_(load_part(a + i, n) - load_part(c + i, n)), total);
        }
        job.l1[b * in.height + y] = (double)sum(total) * (double)job.inv_count;
    }
}

static int32_t ssim_forward(const AvSsim* args) {
    const int threads = args->launch.threads;
    SsimJob job;
    job.args = args, job.window = ssim_window();
    job.layout = ssim_layout(args->height, args->width, threads);
    job.inv_count = (float)(1.0 / (3.0 * (args->height - 2 * args->crop) * (args->width - 2 * args->crop)));
    char* base = (char*)(((uintptr_t)args->scratch + 63) / 64 * 64);
    float* strips = (float*)base;
    job.l1 = (double*)(strips + threads * job.layout.floats);
    job.ssim = job.l1 + args->B * args->height;
    parallel_for(threads, args->B * job.layout.strips, [&](int64_t task, int worker) {
        ssim_strip(job, task / job.layout.strips, task % job.layout.strips, strips + worker * job.layout.floats);
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
