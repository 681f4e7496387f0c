// Rays through volumes: a ray is one worker's, sixteen samples of it at a time.
#pragma once
#include "../include/abi.h"
#include "../include/volume.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

enum { RAY_BLOCK = 64 };

template <class F>
static void for_each_ray(int threads, int64_t rays, F&& body) {
    parallel_for(threads, (rays + RAY_BLOCK - 1) / RAY_BLOCK, [&](int64_t block, int) {
        const int64_t end = (block + 1) * RAY_BLOCK < rays ? (block + 1) * RAY_BLOCK : rays;
        for (int64_t r = block * RAY_BLOCK; r < end; ++r) body(r);
    });
}

static int32_t march_count(const AvMarch* args) {
    const AvMarch& in = *args;
    for_each_ray(in.launch.threads, in.R, [&](int64_t r) { in.counts[r] = count_samples(in, r); });
    return AV_OK;
}

// As put_sample, for n samples from number `first` on.
static void put_samples(const AvMarch& in, int64_t at, int64_t r, float jitter, float first, int64_t n) {
    alignas(64) float lane_index[16];
    for (int l = 0; l < 16; ++l) lane_index[l] = (float)l;
    const F16 lanes = load(lane_index), near_plane = F16(in.near_plane), step = F16(in.step), bend = F16(in.bend);
    const bool even = first + (float)n + jitter <= in.bend;
    const auto distance = [&](F16 x) {
        const F16 straight = fma_(x, step, near_plane);
        return even ? straight : select(x <= bend, straight, F16(in.turn) * exp2_(min_(max_(x - bend, F16(0.0f)) * F16(in.growth), F16(126.9f))));
    };
    for (int64_t i = 0; i < n; i += 16) {
        const int part = n - i < 16 ? (int)(n - i) : 16;
        const F16 k = lanes + F16(first + (float)i);
        store_part(in.starts + at + i, distance(k + F16(jitter)), part);
        store_part(in.ends + at + i, distance(k + F16(1.0f) + F16(jitter)), part);
    }
    for (int64_t i = 0; i < n; ++i) in.ray_ids[at + i] = r;
}

static int32_t march_fill(const AvMarch* args) {
    const AvMarch& in = *args;
    for_each_ray(in.launch.threads, in.R, [&](int64_t r) {
        int64_t at = in.offsets[r];
        const int64_t end = in.offsets[r + 1] < in.capacity ? in.offsets[r + 1] : in.capacity;
        const float jitter = in.jitter ? in.jitter[r] : 0.0f;
        const int32_t* runs = in.runs + 2 * AV_MARCH_RUNS * r;
        const auto put = [&](int64_t place, float k, int64_t n) { put_samples(in, place, r, jitter, k, n); };
        for (int run = 0; at < end; ++run) {
            if (run == AV_MARCH_RUNS) return put_rest(in, r, (float)(runs[2 * run - 2] + runs[2 * run - 1]), at, end, put);
            const int32_t begin = runs[2 * run], length = runs[2 * run + 1];
            if (length == 0) return;
            const int64_t fits = end - at < length ? end - at : length;
            put(at, (float)begin, fits);
            at += fits;
        }
    });
    return AV_OK;
}

// Sixteen samples of a ray from `first` on: transmittance before and after each, and weights. `before` carries Σ τ between calls.
struct RayChunk {
    int n;
    F16 start, end, density, after, weight;
    alignas(64) float weights[16], middles[16];
    bool stopped;  // nothing further counts
};

static void ray_chunk(const AvComposite& in, int64_t first, int64_t end, float& before, RayChunk& c) {
    c.n = end - first < 16 ? (int)(end - first) : 16;
    c.start = load_part(in.starts + first, c.n), c.end = load_part(in.ends + first, c.n), c.density = load_part(in.densities + first, c.n);
    alignas(64) float taus[16], sums[17];
    const F16 tau = optical_depth(c.density, c.start, c.end);
    store(taus, tau);
    sums[0] = before;
    for (int i = 0; i < 16; ++i) sums[i + 1] = sums[i] + taus[i];
    before = sums[16];
    const F16 through = fade(load(sums));
    c.after = fade(load(sums + 1));
    const M16 counts = through >= F16(in.stop);
    c.weight = keep(counts, through * opacity_of(tau));
    store(c.weights, c.weight);
    const F16 middle = F16(0.5f) * (c.start + c.end);
    store(c.middles, keep(finite_(middle), middle));
    c.stopped = (bits(counts) & 0x8000) == 0;
}

AV_INLINE float finite_or_zero(float x) { return finite_(x) ? x : 0.0f; }

static int32_t composite_forward(const AvComposite* args) {
    const AvComposite& in = *args;
    const int D = in.channels;
    for_each_ray(in.launch.threads, in.R, [&](int64_t r) {
        const int64_t begin = in.offsets[r], end = in.offsets[r + 1];
        float* color = in.color + r * D;
        for (int d = 0; d < D; ++d) color[d] = 0.0f;
        float alpha = 0.0f, depth = 0.0f, before = 0.0f;
        int64_t first = begin;
        for (bool stopped = false; first < end && !stopped; first += 16) {
            RayChunk c;
            ray_chunk(in, first, end, before, c);
            store_part(in.weights + first, c.weight, c.n);
            for (int i = 0; i < c.n; ++i) {
                const float w = c.weights[i];
                if (w == 0.0f) continue;
                const float* sample = in.colors + (first + i) * D;
                for (int d = 0; d < D; ++d) color[d] += w * finite_or_zero(sample[d]);
                alpha += w, depth += w * c.middles[i];
            }
            stopped = c.stopped;
        }
        for (; first < end; ++first) in.weights[first] = 0.0f;
        in.alpha[r] = alpha, in.depth[r] = depth / max_(alpha, AV_DEPTH_ALPHA_MIN);
        if (in.backgrounds)
            for (int d = 0; d < D; ++d) color[d] += (1.0f - alpha) * in.backgrounds[r * D + d];
    });
    for (int64_t i = in.offsets[in.R]; i < in.S; ++i) in.weights[i] = 0.0f;
    return AV_OK;
}

// With g_i = ∂L/∂w_i and b = ∂L/∂T: ∂L/∂τ_i = T_{i+1} g_i - Σ_{j>i} w_j g_j - T b.
static void composite_ray_backward(const AvCompositeBackward& args, int64_t r) {
    const AvComposite& in = args.forward;
    const int D = in.channels;
    const int64_t begin = in.offsets[r], end = in.offsets[r + 1];
    const float* v_color = args.v_color + r * D;
    const float alpha = in.alpha[r], opaque = max_(alpha, AV_DEPTH_ALPHA_MIN);
    const float v_depth = args.v_depth ? args.v_depth[r] / opaque : 0.0f;
    float v_alpha = args.v_alpha ? args.v_alpha[r] : 0.0f;
    double remaining = 0.0;  // the difference of two sums: in double, so that the last samples of a ray keep their digits
    if (alpha > AV_DEPTH_ALPHA_MIN) v_alpha -= v_depth * in.depth[r];
    if (in.backgrounds)
        for (int d = 0; d < D; ++d) remaining += (double)(1.0f - alpha) * in.backgrounds[r * D + d] * v_color[d];
    float before = 0.0f;
    int64_t first = begin;
    for (bool stopped = false; first < end && !stopped; first += 16) {  // g into v_densities for the second pass
        RayChunk c;
        ray_chunk(in, first, end, before, c);
        for (int i = 0; i < c.n; ++i) {
            const float* sample = in.colors + (first + i) * D;
            float* v_sample = args.v_colors + (first + i) * D;
            const float w = c.weights[i];
            float g = v_alpha + c.middles[i] * v_depth;
            if (args.v_weights) g += args.v_weights[first + i];
            for (int d = 0; d < D; ++d) {
                const bool sane = finite_(sample[d]);
                g += sane ? sample[d] * v_color[d] : 0.0f;
                v_sample[d] = sane ? w * v_color[d] : 0.0f;
            }
            args.v_densities[first + i] = g;
            remaining += (double)w * g;
        }
        stopped = c.stopped;
    }
    const int64_t counted = first < end ? first : end;
    before = 0.0f;
    for (first = begin; first < counted; first += 16) {
        RayChunk c;
        ray_chunk(in, first, counted, before, c);
        alignas(64) float v_tau[16], g[16];
        store(g, load_part(args.v_densities + first, c.n));
        for (int i = 0; i < 16; ++i) {
            remaining -= (double)c.weights[i] * g[i];
            v_tau[i] = (float)remaining;
        }
        const F16 length = c.end - c.start, tau = c.density * length;
        const M16 moves = (c.weight > F16(0.0f)) & (tau > F16(0.0f)) & (tau < F16(AV_TAU_MAX));
        const F16 v = keep(moves, c.after * load(g) - load(v_tau));
        store_part(args.v_densities + first, v * keep(moves, length), c.n);
        if (!args.v_starts) continue;
        const F16 v_length = v * keep(moves, c.density), v_middle = c.weight * F16(0.5f * v_depth);
        store_part(args.v_starts + first, v_middle - v_length, c.n);
        store_part(args.v_ends + first, v_middle + v_length, c.n);
    }
    for (int64_t i = counted; i < end; ++i) {
        args.v_densities[i] = 0.0f;
        if (args.v_starts) args.v_starts[i] = args.v_ends[i] = 0.0f;
        for (int d = 0; d < D; ++d) args.v_colors[i * D + d] = 0.0f;
    }
}

static int32_t composite_backward(const AvCompositeBackward* args) {
    const AvComposite& in = args->forward;
    for_each_ray(in.launch.threads, in.R, [&](int64_t r) { composite_ray_backward(*args, r); });
    const int64_t used = in.offsets[in.R], rest = in.S - used;
    if (rest == 0) return AV_OK;  // the pointers may be null
    memset(args->v_densities + used, 0, (size_t)rest * sizeof(float));
    memset(args->v_colors + used * in.channels, 0, (size_t)(rest * in.channels) * sizeof(float));
    if (args->v_starts) {
        memset(args->v_starts + used, 0, (size_t)rest * sizeof(float));
        memset(args->v_ends + used, 0, (size_t)rest * sizeof(float));
    }
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
