// Compositing of packed samples: a warp per ray, 32 samples at a time; optical depth is summed by a scan over the lanes.
#include "../include/volume.h"
#include "platform.cuh"

namespace av {

constexpr int RAY_WARPS = 4, RAY_THREADS = 32 * RAY_WARPS;

template <class T>
__device__ inline T warp_sum(T x) {
    for (int bits = 16; bits; bits >>= 1) x += __shfl_xor_sync(FULL, x, bits);
    return x;
}

template <class T>
__device__ inline T inclusive_scan(T x) {
    const int lane = threadIdx.x & 31;
    for (int distance = 1; distance < 32; distance <<= 1) {
        const T other = __shfl_up_sync(FULL, x, distance);
        if (lane >= distance) x += other;
    }
    return x;
}

// The rays of a warp's samples, held within what there is: the host cannot look at offsets without waiting.
struct Range {
    int64_t begin, end;
};

__device__ inline Range samples_of(const AvComposite& in, int64_t r) {
    Range range;
    range.begin = min(max(in.offsets[r], (int64_t)0), in.S);
    range.end = min(max(in.offsets[r + 1], range.begin), in.S);
    return range;
}

struct RaySample {
    bool valid;  // this lane has a sample
    float start, end, density, after, weight, middle;
    bool stopped;  // nothing of the ray counts from the next chunk on; the same in all lanes
};

// `before` carries Σ τ of the earlier chunks.
__device__ inline RaySample ray_sample(const AvComposite& in, int64_t first, int64_t end, float& before) {
    RaySample s;
    const int64_t at = first + (threadIdx.x & 31);
    s.valid = at < end;
    s.start = s.valid ? in.starts[at] : 0, s.end = s.valid ? in.ends[at] : 0, s.density = s.valid ? in.densities[at] : 0;
    const float tau = optical_depth(s.density, s.start, s.end), sum = before + inclusive_scan(tau);
    const float through = fade(fmaxf(sum - tau, 0.0f));
    s.after = fade(sum);
    s.weight = s.valid && through >= in.stop ? through * opacity_of(tau) : 0;
    const float middle = 0.5f * (s.start + s.end);
    s.middle = finite_(middle) ? middle : 0;
    before = __shfl_sync(FULL, sum, 31);
    s.stopped = !__all_sync(FULL, through >= in.stop);
    return s;
}

__device__ inline float finite_or_zero(float x) { return finite_(x) ? x : 0.0f; }

__global__ void __launch_bounds__(RAY_THREADS) composite_kernel(AvComposite in) {
    const int64_t r = (int64_t)blockIdx.x * RAY_WARPS + threadIdx.x / 32;
    if (r >= in.R) return;
    const int lane = threadIdx.x & 31, D = in.channels;
    const Range range = samples_of(in, r);
    float alpha = 0, depth = 0, before = 0;
    bool stopped = false;
    int64_t counted = range.end;
    for (int64_t first = range.begin; first < range.end; first += 32) {
        if (stopped) {
            if (first + lane < range.end) in.weights[first + lane] = 0;
            continue;
        }
        const RaySample s = ray_sample(in, first, range.end, before);
        if (s.valid) in.weights[first + lane] = s.weight;
        alpha += s.weight, depth += s.weight * s.middle;
        stopped = s.stopped;
        if (stopped) counted = min(first + 32, range.end);
    }
    alpha = warp_sum(alpha), depth = warp_sum(depth);
    __syncwarp();
    for (int d = 0; d < D; ++d) {
        float color = 0;
        for (int64_t i = range.begin + lane; i < counted; i += 32) {
            const float w = in.weights[i];
            if (w > 0) color += w * finite_or_zero(in.colors[i * D + d]);
        }
        color = warp_sum(color);
        if (lane == 0) in.color[r * D + d] = in.backgrounds ? color + (1 - alpha) * in.backgrounds[r * D + d] : color;
    }
    if (lane == 0) in.alpha[r] = alpha, in.depth[r] = depth / max_(alpha, AV_DEPTH_ALPHA_MIN);
}

// With g_i = ∂L/∂w_i and b = ∂L/∂T: ∂L/∂τ_i = T_{i+1} g_i - Σ_{j>i} w_j g_j - T b.
__global__ void __launch_bounds__(RAY_THREADS) composite_backward_kernel(AvCompositeBackward args) {
    const AvComposite& in = args.forward;
    const int64_t r = (int64_t)blockIdx.x * RAY_WARPS + threadIdx.x / 32;
    if (r >= in.R) return;
    const int lane = threadIdx.x & 31, D = in.channels;
    const Range range = samples_of(in, r);
    const float* v_color = args.v_color + r * D;
    const float alpha = in.alpha[r], v_depth = args.v_depth ? args.v_depth[r] / max_(alpha, AV_DEPTH_ALPHA_MIN) : 0;
    float v_alpha = args.v_alpha ? args.v_alpha[r] : 0, before = 0;
    if (alpha > AV_DEPTH_ALPHA_MIN) v_alpha -= v_depth * in.depth[r];
    double remaining = 0;  // the difference of two sums: in double, so that the last samples of a ray keep their digits
    for (int64_t i = range.begin + lane; i < range.end; i += 32) {  // g into v_densities for the second pass
        const float w = in.weights[i], middle = 0.5f * (in.starts[i] + in.ends[i]);
        float g = v_alpha + finite_or_zero(middle) * v_depth;
        if (args.v_weights) g += args.v_weights[i];
        for (int d = 0; d < D; ++d) {
            const float c = in.colors[i * D + d];
            g += finite_(c) ? c * v_color[d] : 0;
            args.v_colors[i * D + d] = finite_(c) ? w * v_color[d] : 0;
        }
        args.v_densities[i] = g;
        remaining += (double)w * g;
    }
    remaining = warp_sum(remaining);
    if (in.backgrounds) {
        for (int d = 0; d < D; ++d) remaining += (double)(1 - alpha) * in.backgrounds[r * D + d] * v_color[d];
    }
    bool stopped = false;
    for (int64_t first = range.begin; first < range.end; first += 32) {
        const int64_t at = first + lane;
        if (stopped) {
            if (at < range.end) {
                args.v_densities[at] = 0;
                if (args.v_starts) args.v_starts[at] = args.v_ends[at] = 0;
            }
            continue;
        }
        const RaySample s = ray_sample(in, first, range.end, before);
        const float g = s.valid ? args.v_densities[at] : 0;
        const double sum = inclusive_scan((double)s.weight * g);
        const float later = (float)(remaining - sum);
        remaining -= __shfl_sync(FULL, sum, 31);
        stopped = s.stopped;
        if (!s.valid) continue;
        const float length = s.end - s.start, tau = s.density * length;
        const bool moves = s.weight > 0 && tau > 0 && tau < AV_TAU_MAX;
        const float v = s.after * g - later, v_middle = s.weight * 0.5f * v_depth;
        args.v_densities[at] = moves ? v * length : 0;
        if (args.v_starts) {
            const float v_length = moves ? v * s.density : 0;
            args.v_starts[at] = v_middle - v_length, args.v_ends[at] = v_middle + v_length;
        }
    }
}

// What lies behind the last ray's samples: mostly nothing, and the host does not know, so the few blocks step along.
constexpr int64_t TAIL_BLOCKS = 264;

__global__ void __launch_bounds__(RAY_THREADS) composite_tail_kernel(AvComposite in, float* a, float* b, float* c, float* rows) {
    const int64_t step = (int64_t)gridDim.x * RAY_THREADS, first = max(in.offsets[in.R], (int64_t)0);
    for (int64_t i = first + (int64_t)blockIdx.x * RAY_THREADS + threadIdx.x; i < in.S; i += step) {
        if (a) a[i] = 0;
        if (b) b[i] = 0;
        if (c) c[i] = 0;
        if (rows)
            for (int d = 0; d < in.channels; ++d) rows[i * in.channels + d] = 0;
    }
}

static dim3 tail_grid(int64_t S) { return dim3((unsigned)min((S + RAY_THREADS - 1) / RAY_THREADS, TAIL_BLOCKS)); }

static int32_t refused(const AvComposite& in) {
    if (in.R < 0 || in.S < 0 || in.channels < 1) return fail(AV_INVALID, "composite: there must be channels, R and S not be negative");
    if (in.R > 0x7fffffffll * RAY_WARPS) return fail(AV_INVALID, "composite: too many rays for one call");
    return AV_OK;
}

}  // namespace av

extern "C" {

int32_t av_composite_forward(const AvComposite* args) {
    using namespace av;
    if (const int32_t status = refused(*args)) return status;
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    launch(composite_kernel, dim3(blocks_for(args->R, RAY_WARPS)), dim3(RAY_THREADS), stream, *args);
    launch(composite_tail_kernel, tail_grid(args->S), dim3(RAY_THREADS), stream, *args, args->weights,
           (float*)nullptr, (float*)nullptr, (float*)nullptr);
    return finish("composite");
}

int32_t av_composite_backward(const AvCompositeBackward* args) {
    using namespace av;
    if (const int32_t status = refused(args->forward)) return status;
    const OnDevice device(args->forward.launch);
    const cudaStream_t stream = stream_of(args->forward.launch);
    launch(composite_backward_kernel, dim3(blocks_for(args->forward.R, RAY_WARPS)), dim3(RAY_THREADS), stream, *args);
    launch(composite_tail_kernel, tail_grid(args->forward.S), dim3(RAY_THREADS), stream, args->forward,
           args->v_densities, args->v_starts, args->v_ends, args->v_colors);
    return finish("composite backward");
}

}  // extern "C"
