// Gradient of the compositing, front to back like the forward pass and with the same arithmetic.
//
// With e_i = c_i·∂L/∂color + z_i·∂L/∂depth/alpha and the remaining sum S_i = Σ_{j>i} w_j e_j + T_N e_N (background and alpha),
// ∂L/∂alpha_i = T_i e_i - S_i / (1 - alpha_i). S starts from the finished pixel and loses w_i e_i at every step: nothing
// needs to be stored per contribution, and the transmittance is never recovered by division.
//
// Per Gaussian the pixels only leave sums: of g = alpha ∂L/∂alpha: 1, dx, dy, dx², dx dy, dy² times g; of the weights times
// ∂L/∂color and ∂L/∂depth/alpha. The warp adds them (warp_sums.cuh), and ten lanes add
// their sum to memory.
#include "raster.cuh"
#include "warp_sums.cuh"

namespace av {

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

// Here the sums over the warp cost most, 70 of 170 instructions a visit, so regions are 8×8: fewer visits.
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
