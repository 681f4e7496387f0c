// What the forward and the backward pass of the rasteriser share: regions of warps, batches in shared memory, warp sums.
#pragma once
#include "splat.cuh"

namespace av {

__device__ inline float exp2_fast(float x) {
#if defined(__CUDA_ARCH__)
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));  // 2 ulp
    return y;
#else
    return exp2f(x);
#endif
}

// The 8 × (4·rows) pixels of one warp: lane → column lane % 8, rows lane / 8 + 4·r. Coordinates are relative to the tile.
struct Region {
    int camera, left, top;  // the tile, pixels
    float x, y;             // centre of the lane's first pixel
    int column, row;        // of that pixel in the image

    __device__ Region(const Grid& grid, int tile, int part, int rows) {
        const int lane = threadIdx.x & 31;
        camera = tile / grid.tiles;
        const int local = tile - camera * grid.tiles;
        left = local % grid.columns * TILE;
        top = local / grid.columns * TILE;
        const int px = (part & 1) * 8 + (lane & 7), py = (part >> 1) * 4 * rows + (lane >> 3);
        x = px + 0.5f, y = py + 0.5f;
        column = left + px, row = top + py;
    }
    __device__ bool inside(const Grid& grid, int r) const { return column < grid.width && row + 4 * r < grid.height; }
    __device__ int64_t pixel(const Grid& grid, int r) const {
        return ((int64_t)camera * grid.height + row + 4 * r) * grid.width + column;
    }
};

struct Fetched {
    float4 a, b, c;
    unsigned id;
};

__device__ inline Fetched fetch(const Record* records, const uint32_t* ids, int2 range, int at) {
    Fetched f;
    f.a = f.b = f.c = make_float4(0, 0, 0, -INFINITY);
    f.id = 0;
    if (at < range.y) {
        f.id = ids[at];
        const Record* record = records + f.id;
        f.a = record->a, f.b = record->b, f.c = record->c;
    }
    return f;
}

// Gaussians in shared memory, and per warp of the block which of them reach its region.
template <int WARPS>
struct Batch {
    float4 a[WARPS * 32];  // mean relative to the tile (x, y), index (bits), log2 of the opacity
    float4 b[WARPS * 32];  // s, r, e, z
    float4 c[WARPS * 32];  // colour
    unsigned reach[WARPS][WARPS];  // [warp whose region it is][32 Gaussians]

    template <int ROWS>
    __device__ void put(const Fetched& f, const Region& region, int first_part) {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        const float2 m = mean_from(f.a, (float)region.left, (float)region.top);
        const bool any = f.a.w > -INFINITY;
        a[threadIdx.x] = make_float4(m.x, m.y, __uint_as_float(f.id), f.a.w);
        b[threadIdx.x] = f.b;
        c[threadIdx.x] = f.c;
        const EllipseTest test({f.b.x, f.b.y, f.b.z}, f.a.w);
        const int odd = first_part & 1;  // blocks of one warp may start in the right half
        const EllipseTest::Span x[2] = {test.across(m.x, odd * 8 + 0.5f, odd * 8 + 7.5f), test.across(m.x, 8.5f, 15.5f)};
        EllipseTest::Span y;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const int part = first_part + w;
            const float y0 = (part >> 1) * 4 * ROWS + 0.5f;
            if ((w & 1) == 0) y = test.down(m.y, y0, y0 + 4 * ROWS - 1);
            const unsigned bits = __ballot_sync(FULL, any && test.touches(x[w & 1], y));
            if (lane == w) reach[w][warp] = bits;
        }
    }
};

// Sum over the warp of values in 0..rows.
template <int ROWS>
__device__ inline float warp_sum_unit(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    // one instruction in fixed point; 32 lanes of at most ROWS stay below 2^32, and the resolution is below 6e-8
    constexpr float ONE = (float)(1u << 25) / ROWS * 2;
    return __reduce_add_sync(FULL, (unsigned)(value * ONE)) * (1.0f / ONE);
#else
    for (int step = 16; step; step /= 2) value += __shfl_xor_sync(FULL, value, step);
    return value;
#endif
}

}  // namespace av
