// Alpha compositing of the sorted instances, a warp per 8 × (4·ROWS) pixels of a tile.
//
// A block fetches as many Gaussians as it has threads; each thread tests its own against the rectangles of all
// warps of the block, and each warp then visits only the Gaussians that reach its rectangle.
#include "raster.cuh"

namespace av {

template <int ROWS, int WARPS, bool DEPTH, bool CONTRIBUTIONS>
__global__ void __launch_bounds__(WARPS * 32)
    raster_kernel(Grid grid, Saved saved, RasterForward out) {
    constexpr int PARTS = 8 / ROWS / WARPS;  // blocks per tile
    AV_SHARED Batch<WARPS> batch;
    const int tile = tile_of_block(saved.class_sizes, saved.order, grid.all_tiles(), blockIdx.x / PARTS);
    const Region region(grid, tile, (blockIdx.x % PARTS) * WARPS + (threadIdx.x >> 5), ROWS);
    const int2 range = saved.ranges[tile];
    const Record* records = saved.records + (int64_t)region.camera * grid.N;

    float through[ROWS], red[ROWS], green[ROWS], blue[ROWS], depth[ROWS];
    bool inside[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        inside[r] = region.inside(grid, r);
        through[r] = inside[r] ? 1.0f : 0.0f;
        red[r] = green[r] = blue[r] = depth[r] = 0;
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
                float sum = 0;
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    const float dy = region.y + 4 * r - a.y;
                    const float p = fmaf(b.y, dy, sdx), q = b.z * dy;
                    const float exponent = a.w - fmaf(p, p, q * q);
                    if (exponent >= LOG2_ALPHA_MIN) {
                        const float alpha = fminf(AV_ALPHA_MAX, exp2_fast(exponent));
                        const float weight = alpha * through[r];
                        red[r] = fmaf(weight, c.x, red[r]);
                        green[r] = fmaf(weight, c.y, green[r]);
                        blue[r] = fmaf(weight, c.z, blue[r]);
                        if (DEPTH) depth[r] = fmaf(weight, b.w, depth[r]);
                        through[r] -= weight;
                        if (CONTRIBUTIONS) sum += weight;
                    }
                }
                if (CONTRIBUTIONS) {
                    sum = warp_sum_unit<ROWS>(sum);
                    if ((threadIdx.x & 31) == 0 && sum > 0) atomicAdd(&out.contributions[__float_as_uint(a.z)], sum);
                }
            }
            bool opaque = true;
#pragma unroll
            for (int r = 0; r < ROWS; ++r) opaque = opaque && through[r] < AV_TRANSMITTANCE_MIN;
            done = __all_sync(FULL, opaque);
        }
    }
    float background[3] = {0, 0, 0};
    if (out.backgrounds) {
        for (int i = 0; i < 3; ++i) background[i] = out.backgrounds[3 * region.camera + i];
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        if (!inside[r]) continue;
        const int64_t at = region.pixel(grid, r);
        const float alpha = 1.0f - through[r];
        out.color[3 * at] = fmaf(through[r], background[0], red[r]);
        out.color[3 * at + 1] = fmaf(through[r], background[1], green[r]);
        out.color[3 * at + 2] = fmaf(through[r], background[2], blue[r]);
        out.alpha[at] = alpha;
        if (DEPTH) out.depth[at] = depth[r] / fmaxf(alpha, AV_DEPTH_ALPHA_MIN);
    }
}

// Rows of pixels per lane and warps per block. On the scene of the bench (100k Gaussians, 550×802) regions of 8×4 pixels are reached
// 384k times at 27 instructions, of 8×8 273k times at 27 to 40: level, and the smaller ones share a heavy tile among more warps.
#ifndef AV_FORWARD_ROWS
#define AV_FORWARD_ROWS 1
#endif
#ifndef AV_FORWARD_WARPS
#define AV_FORWARD_WARPS 8
#endif

void launch_raster(const Grid& grid, const Saved& saved, const RasterForward& out, cudaStream_t stream) {
    constexpr int ROWS = AV_FORWARD_ROWS, WARPS = AV_FORWARD_WARPS;
    const dim3 blocks((unsigned)(grid.all_tiles() * (8 / ROWS / WARPS))), threads(WARPS * 32);
    if (out.depth && out.contributions) launch(raster_kernel<ROWS, WARPS, true, true>, blocks, threads, stream, grid, saved, out);
    else if (out.depth) launch(raster_kernel<ROWS, WARPS, true, false>, blocks, threads, stream, grid, saved, out);
    else if (out.contributions) launch(raster_kernel<ROWS, WARPS, false, true>, blocks, threads, stream, grid, saved, out);
    else launch(raster_kernel<ROWS, WARPS, false, false>, blocks, threads, stream, grid, saved, out);
}

}  // namespace av
