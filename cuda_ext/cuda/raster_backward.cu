// Gradient of the compositing, front to back like the forward pass and with the same arithmetic.
//
// With e_i = c_i·∂L/∂color + z_i·∂L/∂depth/alpha and the remaining sum S_i = Σ_{j>i} w_j e_j + T_N e_N (background and alpha),
// ∂L/∂alpha_i = T_i e_i - S_i / (1 - alpha_i). S starts from the finished pixel and loses w_i e_i at every step: nothing
// needs to be stored per contribution, and the transmittance is never recovered by division.
//
// Per Gaussian the pixels only leave sums: of g = alpha ∂L/∂alpha: 1, dx, dy, dx², dx dy, dy² times g; of the weights times
// ∂L/∂color and ∂L/∂depth/alpha. The warp adds them in a butterfly that halves the number of values at each step
// (12 shuffles in place of 50), and ten lanes add their sum to memory.
#include "raster.cuh"

namespace av {

constexpr int VALUES = 10;

// Lane 2i, for i = slot below, ends up with the warp's sum of one value; which one: value_of_lane.
__device__ inline float warp_sums(const float v[VALUES]) {
    const int lane = threadIdx.x & 31;
    const bool b4 = lane & 16, b3 = lane & 8, b2 = lane & 4, b1 = lane & 2;
    float w[6];
#pragma unroll
    for (int i = 0; i < 5; ++i) {
        const float keep = b4 ? v[5 + i] : v[i], give = b4 ? v[i] : v[5 + i];
        w[i] = keep + __shfl_xor_sync(FULL, give, 16);
    }
    w[5] = 0;
    float x[4];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        const float keep = b3 ? w[3 + i] : w[i], give = b3 ? w[i] : w[3 + i];
        x[i] = keep + __shfl_xor_sync(FULL, give, 8);
    }
    x[3] = 0;
    float y[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float keep = b2 ? x[2 + i] : x[i], give = b2 ? x[i] : x[2 + i];
        y[i] = keep + __shfl_xor_sync(FULL, give, 4);
    }
    const float keep = b1 ? y[1] : y[0], give = b1 ? y[0] : y[1];
    const float z = keep + __shfl_xor_sync(FULL, give, 2);
    return z + __shfl_xor_sync(FULL, z, 1);
}

__device__ inline int value_of_lane() {
    const int lane = threadIdx.x & 31;
    const int third = (lane & 4 ? 2 : 0) + (lane & 2 ? 1 : 0);
    const int fifth = (lane & 8 ? 3 : 0) + third;
    return (lane & 1) || third > 2 || fifth > 4 ? -1 : (lane & 16 ? 5 : 0) + fifth;
}

template <int ROWS, int WARPS, bool DEPTH>
__global__ void __launch_bounds__(WARPS * 32)
    raster_backward_kernel(Grid grid, Saved saved, RasterBackward in, float* gradients) {
    constexpr int PARTS = 8 / ROWS / WARPS;
    AV_SHARED Batch<WARPS> batch;
    const int tile = tile_of_block(saved.class_sizes, saved.order, grid.all_tiles(), blockIdx.x / PARTS);
    const int2 range = saved.ranges[tile];
    if (range.x == range.y) return;
    const Region region(grid, tile, (blockIdx.x % PARTS) * WARPS + (threadIdx.x >> 5), ROWS);
    const Record* records = saved.records + (int64_t)region.camera * grid.N;
    float* sums = gradients + (int64_t)region.camera * grid.N * GRADIENT_FLOATS;
    const int value = value_of_lane();

    float through[ROWS], remaining[ROWS], v_red[ROWS], v_green[ROWS], v_blue[ROWS], v_depth[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        through[r] = remaining[r] = v_red[r] = v_green[r] = v_blue[r] = v_depth[r] = 0;
        if (!region.inside(grid, r)) continue;
        const int64_t at = region.pixel(grid, r);
        through[r] = 1.0f;
        v_red[r] = in.v_color[3 * at], v_green[r] = in.v_color[3 * at + 1], v_blue[r] = in.v_color[3 * at + 2];
        remaining[r] = in.color[3 * at] * v_red[r] + in.color[3 * at + 1] * v_green[r] + in.color[3 * at + 2] * v_blue[r];
        const float alpha = in.alpha[at];
        float v_alpha = in.v_alpha ? in.v_alpha[at] : 0.0f;
        if (DEPTH) {
            const float z = in.depth[at];
            v_depth[r] = in.v_depth[at] / fmaxf(alpha, AV_DEPTH_ALPHA_MIN);
            remaining[r] += z * in.v_depth[at];
            v_alpha -= v_depth[r] * z;
        }
        remaining[r] -= (1.0f - alpha) * v_alpha;
    }
    bool done = false;
    Fetched next = fetch(records, saved.ids, range, range.x + (int)threadIdx.x);
    for (int first = range.x; first < range.y; first += WARPS * 32) {
        if (__syncthreads_and(done)) break;
        batch.template put<ROWS>(next, region, (blockIdx.x % PARTS) * WARPS);
        next = fetch(records, saved.ids, range, first + WARPS * 32 + (int)threadIdx.x);
        __syncthreads();
        for (int word = 0; word < WARPS; ++word) {
            if (done) break;
            unsigned bits = batch.reach[threadIdx.x >> 5][word];
            while (bits) {
                const int j = word * 32 + __ffs(bits) - 1;
                bits &= bits - 1;
                const float4 a = batch.a[j], b = batch.b[j], c = batch.c[j];
                const float dx = region.x - a.x, sdx = b.x * dx;
                float v[VALUES] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
                bool any = false;
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    const float dy = region.y + 4 * r - a.y;
                    const float p = fmaf(b.y, dy, sdx), q = b.z * dy;
                    const float exponent = a.w - fmaf(p, p, q * q);
                    if (exponent >= LOG2_ALPHA_MIN && through[r] > 0) {
                        any = true;
                        const float raw = exp2_fast(exponent);
                        const float alpha = fminf(AV_ALPHA_MAX, raw);
                        const float weight = alpha * through[r];
                        float e = c.x * v_red[r] + c.y * v_green[r] + c.z * v_blue[r];
                        if (DEPTH) e = fmaf(b.w, v_depth[r], e);
                        remaining[r] = fmaf(-weight, e, remaining[r]);
                        float g = 0;
                        if (raw <= AV_ALPHA_MAX) g = alpha * (through[r] * e - remaining[r] * reciprocal(1.0f - alpha));
                        through[r] -= weight;
                        const float gx = g * dx, gy = g * dy;
                        v[0] += g, v[1] += gx, v[2] += gy;
                        v[3] = fmaf(gx, dx, v[3]), v[4] = fmaf(gx, dy, v[4]), v[5] = fmaf(gy, dy, v[5]);
                        v[6] = fmaf(weight, v_red[r], v[6]);
                        v[7] = fmaf(weight, v_green[r], v[7]);
                        v[8] = fmaf(weight, v_blue[r], v[8]);
                        if (DEPTH) v[9] = fmaf(weight, v_depth[r], v[9]);
                    }
                }
                if (!__any_sync(FULL, any)) continue;
                const float sum = warp_sums(v);
                if (value >= 0) atomicAdd(&sums[(int64_t)__float_as_uint(a.z) * GRADIENT_FLOATS + value], sum);
            }
            bool opaque = true;
#pragma unroll
            for (int r = 0; r < ROWS; ++r) opaque = opaque && through[r] < AV_TRANSMITTANCE_MIN;
            done = __all_sync(FULL, opaque);
        }
    }
}

#ifndef AV_BACKWARD_ROWS
#define AV_BACKWARD_ROWS 2
#endif
#ifndef AV_BACKWARD_WARPS
#define AV_BACKWARD_WARPS 4
#endif

void launch_raster_backward(const Grid& grid, const Saved& saved, const RasterBackward& in, float* gradients,
                            cudaStream_t stream) {
    constexpr int ROWS = AV_BACKWARD_ROWS, WARPS = AV_BACKWARD_WARPS;
    const dim3 blocks((unsigned)(grid.all_tiles() * (8 / ROWS / WARPS))), threads(WARPS * 32);
    if (in.v_depth) launch(raster_backward_kernel<ROWS, WARPS, true>, blocks, threads, stream, grid, saved, in, gradients);
    else launch(raster_backward_kernel<ROWS, WARPS, false>, blocks, threads, stream, grid, saved, in, gradients);
}

}  // namespace av
