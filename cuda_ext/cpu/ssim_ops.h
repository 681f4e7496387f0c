// L1, structural similarity, mattes, and their gradients, in one sweep over the rows.
//
// Four blurred quantities suffice, since the variances only occur as their sum: E[a], E[b], E[a²+b²], E[ab]. They are blurred down the rows
// first and then along them; the three maps that the gradient blurs go the other way round: so two pictures and three maps are all that has
// to be kept until a window is full. They are kept in rings in the second cache, whose speed is the limit: the more rows a blur makes at
// once, the less it reads. A row of a ring has an odd number of cache lines: else the rows that a blur reads together share few places of
// the first cache, and it takes twice as long.
#pragma once
#include "../include/abi.h"
#include "blur.h"
#include "pool.h"

namespace av {
inline namespace AV_NS {

enum { SSIM_RING = BLUR_ROWS + 2 * BLUR_R };

struct SsimLayout {
    int64_t pixels;      // of a segment; at least the radius, so that a halo reaches into one neighbour only
    int64_t registers;   // of a row of one picture
    int64_t pair_pitch;  // registers between rows: of the pictures,
    int64_t down_pitch;  // of what is blurred down the rows,
    int64_t map_pitch;   // and of the maps
    int64_t rows;        // of a strip
    int64_t strips;      // of an image
    int64_t floats;      // scratch of one thread
};

AV_INLINE SsimLayout ssim_layout(int64_t B, int32_t height, int32_t width, int32_t threads) {
    SsimLayout s;
    s.pixels = (width + 15) / 16;
    if (s.pixels < BLUR_R) s.pixels = BLUR_R;
    s.registers = 3 * s.pixels;
    s.pair_pitch = 2 * s.registers | 1, s.down_pitch = 3 * 4 * s.pixels | 1, s.map_pitch = 3 * 3 * s.pixels | 1;
    int64_t strips = threads;  // of an image, so that all images together share out evenly; their borders are computed twice
    for (int64_t a = B, b = threads; b;) {
        const int64_t rest = a % b;
        a = b, b = rest, strips = threads / a;
    }
    s.rows = (height + strips - 1) / strips;
    if (s.rows < 32) s.rows = 32;
    s.strips = (height + s.rows - 1) / s.rows;
    s.floats = 16 * (SSIM_RING * (s.pair_pitch + s.map_pitch + s.pixels) + BLUR_ROWS * (s.down_pitch + s.registers) + 9 * s.pixels);
    return s;
}

enum { SSIM_SUMS = 4 };  // per row: of w |a-b|, w · map, w, |alpha - matte|

static int64_t ssim_scratch(int64_t B, int32_t height, int32_t width, int32_t threads, int32_t) {
    return 64 + SSIM_SUMS * B * height * (int64_t)sizeof(double) + threads * ssim_layout(B, height, width, threads).floats * (int64_t)sizeof(float);
}

struct SsimJob {
    const AvSsim* args;
    BlurWindow window;
    SsimLayout layout;
    double* sums;     // [B, H, SSIM_SUMS]
    float inv_count;  // 1 / number of values in the mean
};

// One strip of one image: everything that a thread keeps while its rows pass.
struct SsimStrip {
    const SsimJob& job;
    const AvSsim& in;
    const SsimLayout& layout;
    int64_t image, y0, y1, first_map;
    float *pairs, *downs, *blurs, *maps, *map_rings, *weights, *gradients, *plain, *none;

    AV_INLINE SsimStrip(const SsimJob& j, int64_t b, int64_t strip, float* scratch)
        : job(j), in(*j.args), layout(j.layout), image(b), y0(strip * j.layout.rows) {
        y1 = y0 + layout.rows < in.height ? y0 + layout.rows : in.height;
        first_map = in.v_a ? y0 - BLUR_R : y0;
        float* at = scratch;
        const auto take = [&](int64_t registers) {
            float* p = at;
            at += 16 * registers;
            return p;
        };
        pairs = take(SSIM_RING * layout.pair_pitch);     // [ring, 2, pixels, 3] a and b
        downs = take(BLUR_ROWS * layout.down_pitch);     // [rows, 3, 4, pixels] blurred down
        blurs = take(4 * layout.pixels);                 // [4, pixels] and along: of one row and channel
        maps = take(3 * layout.pixels);                  // [3, pixels] likewise
        map_rings = take(SSIM_RING * layout.map_pitch);  // [ring, 3, 3, pixels] channels of maps blurred along
        weights = take(SSIM_RING * layout.pixels);       // [ring, pixels]
        gradients = take(BLUR_ROWS * layout.registers);  // [rows, pixels, 3]
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

    AV_INLINE static int64_t place(int64_t y) { return (y + SSIM_RING) % SSIM_RING; }  // of row y ≥ -2 · BLUR_R in a ring
    AV_INLINE bool in_image(int64_t y) const { return y >= 0 && y < in.height; }
    AV_INLINE bool owned(int64_t y) const { return y >= y0 && y < y1; }
    AV_INLINE float* pair(int64_t y) const { return pairs + 16 * place(y) * layout.pair_pitch; }  // a; b is `registers` on
    AV_INLINE const float* weight_row(int64_t y) const {
        if (y < in.crop || y >= in.height - in.crop) return none;
        return in.weights ? weights + 16 * place(y) * layout.pixels : plain;
    }
    AV_INLINE double* sums(int64_t y) const { return job.sums + SSIM_SUMS * (image * in.height + y); }

    // Row y of both pictures and of the weights into the rings; black outside of the image.
    AV_INLINE void read_row(int64_t y) {
        const int64_t n = layout.registers, W3 = 3 * (int64_t)in.width;
        float *a = pair(y), *b = a + 16 * n;
        if (!in_image(y)) {
            memset(a, 0, (size_t)(2 * n * 16) * sizeof(float));
            return;
        }
        load_segments(in.a + (image * in.height + y) * W3, W3, n, a);
        load_segments(in.b + (image * in.height + y) * W3, W3, n, b);
        const float* row = weight_row(y);
        if (in.weights && row != none) {
            float* w = weights + 16 * place(y) * layout.pixels;
            load_segments(in.weights + (image * in.height + y) * in.width, in.width, layout.pixels, w);
            for (int64_t p = 0; p < layout.pixels; ++p) store(w + 16 * p, load(w + 16 * p) * load(plain + 16 * p));
        }
        if (!owned(y)) return;
        F16 distance = F16(0.0f), total = F16(0.0f);
        for (int64_t p = 0; p < layout.pixels; ++p) {
            const F16 w = load(row + 16 * p);
            total += w;
            for (int64_t i = 48 * p; i < 48 * (p + 1); i += 16) distance = fma_(w, abs_(load(a + i) - load(b + i)), distance);
        }
        sums(y)[0] = (double)sum(distance), sums(y)[2] = 3.0 * (double)sum(total);
    }

    // Blurs the four quantities down BLUR_ROWS rows from m on.
    AV_INLINE void blur_rows(int64_t m) {
        const float *a[SSIM_RING], *b[SSIM_RING];
        for (int k = 0; k < SSIM_RING; ++k) a[k] = pair(m - BLUR_R + k), b[k] = a[k] + 16 * layout.registers;
        for (int64_t p = 0; p < layout.pixels; ++p) {
            for (int c = 0; c < 3; ++c) {
                const int64_t i = 16 * (3 * p + c), pitch = 16 * layout.down_pitch;
                float* to = downs + 16 * (4 * c * layout.pixels + p);
                blur_down([&](int k, int lane) { return tap_at(a[k] + i + lane); }, to, pitch, job.window);
                blur_down([&](int k, int lane) { return tap_at(b[k] + i + lane); }, to + 16 * layout.pixels, pitch, job.window);
                const auto squares = [&](int k, int lane) {
                    const NativeF va = tap_at(a[k] + i + lane), vb = tap_at(b[k] + i + lane);
                    return va * va + rounded(vb * vb);
                };
                blur_down(squares, to + 32 * layout.pixels, pitch, job.window);
                const auto products = [&](int k, int lane) { return rounded(tap_at(a[k] + i + lane) * tap_at(b[k] + i + lane)); };
                blur_down(products, to + 48 * layout.pixels, pitch, job.window);
            }
        }
    }

    // Similarity of row y, the k-th that is blurred down, and its derivatives to E[a], -½ E[a²+b²] and ½ E[ab], blurred along the row.
    //
    // E[a], E[b], … come multiplied by the window's gain g, and so all of the similarity's four factors by g². The derivatives are left
    // with one factor g too few in the first and two in the others; `gradient_rows` puts them back.
    AV_INLINE void map_row(int64_t y, int k) {
        const int64_t pixels = layout.pixels;
        float* to = map_rings + 16 * place(y) * layout.map_pitch;
        if (!in_image(y)) {
            memset(to, 0, (size_t)(16 * 9 * pixels) * sizeof(float));
            return;
        }
        const float* weight = weight_row(y);
        const F16 gain = F16(job.window.gain), c1 = gain * gain * F16(AV_SSIM_C1), c2 = gain * gain * F16(AV_SSIM_C2), two = F16(2.0f);
        F16 similarity = F16(0.0f);
        for (int c = 0; c < 3; ++c) {
            const float* down = downs + 16 * (k * layout.down_pitch + 4 * c * pixels);
            for (int q = 0; q < 4; ++q) blur_along(down + 16 * q * pixels, blurs + 16 * q * pixels, pixels, job.window);
            for (int64_t p = 0; p < pixels; ++p) {
                const float* e = blurs + 16 * p;
                const F16 a = load(e), b = load(e + 16 * pixels), product = a * b, squares = fma_(a, a, b * b);
                const F16 A1 = fma_(two, product, c1), A2 = fma_(two, fma_(gain, load(e + 48 * pixels), -product), c2);
                const F16 B1 = squares + c1, B2 = fma_(gain, load(e + 32 * pixels), c2) - squares;
                const F16 inv = reciprocal(B1 * B2), w_inv = load(weight + 16 * p) * inv, P = A1 * w_inv, Q = A2 * w_inv;
                const F16 w_S = A1 * Q, w_S_inv = w_S * inv, to_squares = w_S_inv * B1;
                similarity += w_S;
                float* map = maps + 16 * p;
                store(map, fma_(a, fnma_(w_S_inv, B2, to_squares), b * (Q - P)));
                store(map + 16 * pixels, to_squares);
                store(map + 32 * pixels, P);
            }
            if (!in.v_a) continue;
            for (int q = 0; q < 3; ++q) blur_along(maps + 16 * q * pixels, to + 16 * (3 * q + c) * pixels, pixels, job.window);
        }
        if (owned(y)) sums(y)[1] = (double)sum(similarity);
    }

    // ∂/∂a = blur(∂/∂E[a]) + 2a blur(∂/∂E[a²+b²]) + b blur(∂/∂E[ab]) of `count` rows from y on.
    AV_INLINE void gradient_rows(int64_t y, int count) {
        const int64_t n = layout.registers, W3 = 3 * (int64_t)in.width;
        const F16 gain = F16(job.window.gain), to_l1 = F16(in.l1_factor), to_ssim = F16(-2.0f * in.ssim_factor);
        const float *ring[SSIM_RING], *weight_rows[BLUR_ROWS], *a_rows[BLUR_ROWS];
        for (int k = 0; k < SSIM_RING; ++k) ring[k] = map_rings + 16 * place(y - BLUR_R + k) * layout.map_pitch;
        for (int k = 0; k < count; ++k) weight_rows[k] = weight_row(y + k), a_rows[k] = pair(y + k);
        for (int c = 0; c < 3; ++c) {
            for (int64_t p = 0; p < layout.pixels; ++p) {
                alignas(64) float e[3][16 * BLUR_ROWS];
                for (int q = 0; q < 3; ++q) {
                    const int64_t at = 16 * ((3 * q + c) * layout.pixels + p);
                    blur_down([&](int k, int lane) { return tap_at(ring[k] + at + lane); }, e[q], 16, job.window);
                }
                const int64_t j = 3 * p + c;
                for (int k = 0; k < count; ++k) {
                    const F16 a = load(a_rows[k] + 16 * j), b = load(a_rows[k] + 16 * (n + j));
                    const F16 ssim = fma_(gain, fnma_(a, load(e[1] + 16 * k), b * load(e[2] + 16 * k)), load(e[0] + 16 * k));
                    const F16 l1 = signed_as(to_l1 * load(weight_rows[k] + 16 * p), a - b);
                    store(gradients + 16 * (k * n + j), fma_(to_ssim, ssim, l1));
                }
            }
        }
        for (int k = 0; k < count; ++k) store_segments(in.v_a + (image * in.height + y + k) * W3, W3, n, gradients + 16 * k * n);
    }

    AV_INLINE void run() {
        const int64_t last_map = in.v_a ? y1 + BLUR_R : y1;
        int64_t read = first_map - BLUR_R, done = y0;
        for (int64_t m = first_map; m < last_map; m += BLUR_ROWS) {
            const int count = last_map - m < BLUR_ROWS ? (int)(last_map - m) : BLUR_ROWS;
            for (; read < m + count + BLUR_R; ++read) read_row(read);
            blur_rows(m);
            for (int k = 0; k < count; ++k) map_row(m + k, k);
            const int64_t ready = m + count - BLUR_R;
            if (!in.v_a || ready <= done) continue;
            gradient_rows(done, (int)(ready - done));
            done = ready;
        }
    }
};

// |alpha - matte| of the strip's rows, and its gradient.
AV_INLINE void matte_rows(const SsimJob& job, int64_t b, int64_t y0, int64_t y1) {
    const AvSsim& in = *job.args;
    const double count = (double)in.height * in.width;
    const F16 step = F16((float)(in.matte_factor / count));
    for (int64_t y = y0; y < y1; ++y) {
        const int64_t row = (b * in.height + y) * in.width;
        F16 total = F16(0.0f);
        for (int64_t x = 0; x < in.width; x += 16) {
            const int n = in.width - x < 16 ? (int)(in.width - x) : 16;
            const F16 d = load_part(in.alpha + row + x, n) - load_part(in.mattes + row + x, n);
            total += abs_(d);
            if (in.v_alpha) store_part(in.v_alpha + row + x, signed_as(step, d), n);
        }
        job.sums[SSIM_SUMS * (b * in.height + y) + 3] = (double)sum(total) / count;
    }
}

static void ssim_strip(const SsimJob& job, int64_t b, int64_t strip, float* scratch) {
    SsimStrip rows(job, b, strip, scratch);
    rows.run();
    if (job.args->alpha) matte_rows(job, b, rows.y0, rows.y1);
}

static int32_t ssim(const AvSsim* args) {
    const AvSsim& in = *args;
    const int threads = in.launch.threads;
    SsimJob job;
    job.args = args, job.window = blur_window(), job.layout = ssim_layout(in.B, in.height, in.width, threads);
    job.inv_count = (float)(1.0 / (3.0 * (in.height - 2 * in.crop) * (in.width - 2 * in.crop)));
    float* strips = (float*)(((uintptr_t)in.scratch + 63) / 64 * 64);
    job.sums = (double*)(strips + threads * job.layout.floats);
    parallel_for(threads, in.B * job.layout.strips, [&](int64_t task, int worker) {
        ssim_strip(job, task / job.layout.strips, task % job.layout.strips, strips + worker * job.layout.floats);
    });
    for (int64_t b = 0; b < in.B; ++b) {
        double totals[SSIM_SUMS] = {};
        for (int64_t y = 0; y < in.height; ++y)
            for (int i = 0; i < SSIM_SUMS; ++i)
                if (i < 3 || in.alpha) totals[i] += job.sums[SSIM_SUMS * (b * in.height + y) + i];
        in.l1[b] = (float)totals[0], in.ssim[b] = (float)totals[1];
        in.loss[b] = (float)(in.l1_factor * totals[0] + in.ssim_factor * (totals[2] - totals[1]) + in.matte_factor * totals[3]);
    }
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
