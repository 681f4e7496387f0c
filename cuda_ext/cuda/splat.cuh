// The stages of a splat on CUDA and what they hand to each other.
//
//   project     a thread per Gaussian and camera: 48-byte records, and how many Gaussians touch each tile
//   offsets     a thread per tile: a stretch of the instance list, and the tiles sorted into classes by load
//   scatter     a thread per Gaussian and camera: depth and index of each into the stretches of the tiles it touches
//   sort        a block per tile, the heaviest tiles first: by depth, ties by index
//   raster      a block per tile or part of one, the heaviest tiles first
//   backward    the same, then a thread per Gaussian over all cameras
//
// Five launches and one memset, whatever the number of cameras, and no word from the device to the host in between. A sort per
// tile in place of a global one: no instance count is needed to launch it, and no pass over memory per digit.
#pragma once
#include "ellipse.cuh"
#include "platform.cuh"

namespace av {

constexpr int TILE = AV_TILE;
constexpr int CLASSES = 16;          // tiles by ceil(log2(instances + 1))
constexpr int GRADIENT_FLOATS = 12;  // per Gaussian and camera: ten sums, two to align

// a: u, v, the low halves of both as two bfloat16, log2 of the opacity (-inf: culled)
// b: s, r, e (the Ellipse), z
// c: red, green, blue, larger half-extent in pixels
struct alignas(16) Record {
    float4 a, b, c;
};

struct Grid {  // of tiles
    int64_t N;
    int C, width, height, columns, rows, tiles;  // tiles per camera

    __host__ __device__ Grid(int64_t N_, int64_t C_, int width_, int height_)
        : N(N_), C((int)C_), width(width_), height(height_), columns((width_ + TILE - 1) / TILE),
          rows((height_ + TILE - 1) / TILE), tiles(columns * rows) {}
    __host__ __device__ int64_t all_tiles() const { return (int64_t)tiles * C; }
};

// Forward → backward.
struct Saved {
    Record* records;   // [C, N]
    uint32_t* ids;     // [capacity] Gaussian of each instance, tile by tile, front to back
    int2* ranges;      // [C, tiles] first and one past the last instance
    int* class_sizes;  // [CLASSES]
    int* order;        // [CLASSES, C · tiles]

    Saved(void* memory, const Grid& grid, int64_t capacity, int64_t* bytes) {
        Arena arena(memory);
        records = arena.take<Record>(grid.N * grid.C);
        ids = arena.take<uint32_t>(capacity);
        ranges = arena.take<int2>(grid.all_tiles());
        class_sizes = arena.take<int>(CLASSES);
        order = arena.take<int>(CLASSES * grid.all_tiles());
        *bytes = arena.used;
    }
};

struct ForwardScratch {
    unsigned long long* total;  // [2] instances, visible Gaussians; zeroed together with the counts that follow
    int* counts;                // [C, tiles]
    int64_t zero_bytes;
    int* cursors;               // [C, tiles]
    ushort4* boxes;             // [C, N] in tiles: x0, y0, x1, y1, ends excluded; x1 = 0: culled
    unsigned long long* keys;   // [capacity] depth bits, index

    ForwardScratch(void* memory, const Grid& grid, int64_t capacity, int64_t* bytes) {
        Arena arena(memory);
        total = arena.take<unsigned long long>(2);
        counts = arena.take<int>(grid.all_tiles());
        zero_bytes = arena.used;
        cursors = arena.take<int>(grid.all_tiles());
        boxes = arena.take<ushort4>(grid.N * grid.C);
        keys = arena.take<unsigned long long>(capacity);
        *bytes = arena.used;
    }
};

struct BackwardScratch {
    float* gradients;  // [C, N, GRADIENT_FLOATS], see raster_backward.cu

    BackwardScratch(void* memory, const Grid& grid, int64_t* bytes) {
        Arena arena(memory);
        gradients = arena.take<float>(grid.N * grid.C * GRADIENT_FLOATS);
        *bytes = arena.used;
    }
};

struct Projections {
    Record* records;
    int32_t* radii;        // or NULL
    float* contributions;  // or NULL; zeroed here for the rasteriser
    int* class_sizes;      // zeroed here for the offsets
};
void launch_project(const AvScene&, const Grid&, const Projections&, const ForwardScratch&, cudaStream_t);
void launch_pack(const AvProjected&, const Grid&, const Projections&, const ForwardScratch&, cudaStream_t);
void launch_bins(const Grid&, int64_t capacity, const Saved&, const ForwardScratch&, int32_t* counters, cudaStream_t);

struct RasterForward {
    const float* backgrounds;
    float *color, *alpha, *depth, *contributions;  // depth and contributions may be NULL
};
void launch_raster(const Grid&, const Saved&, const RasterForward&, cudaStream_t);

struct RasterBackward {
    const float *color, *alpha, *depth, *v_color, *v_alpha, *v_depth;  // v_alpha, and depth with v_depth, may be NULL
};
void launch_raster_backward(const Grid&, const Saved&, const RasterBackward&, float* gradients, cudaStream_t);

void launch_splat_project_backward(const AvSplatBackward&, const Grid&, const Record*, const float* gradients, cudaStream_t);
void launch_unpack_gradients(const AvRasterizeBackward&, const Record*, const float* gradients, cudaStream_t);

#if defined(__CUDACC__) || defined(AV_EMULATE)

__device__ inline unsigned pack_low(float u_low, float v_low) {
    return (__float_as_uint(u_low) >> 16) | (__float_as_uint(v_low) & 0xffff0000u);
}

// The mean relative to a corner of a tile; near the tile, exact to 1e-6 pixels.
__device__ inline float2 mean_from(const float4& a, float left, float top) {
    const unsigned low = __float_as_uint(a.z);
    return make_float2((a.x - left) + __uint_as_float(low << 16), (a.y - top) + __uint_as_float(low & 0xffff0000u));
}

// The tile that block number `block` works on: heaviest class first.
__device__ inline int tile_of_block(const int* class_sizes, const int* order, int64_t all_tiles, int block) {
    int sizes[CLASSES];
#pragma unroll
    for (int k = 0; k < CLASSES; ++k) sizes[k] = class_sizes[k];  // all loads in flight at once
    int tile = -1;
#pragma unroll
    for (int k = CLASSES - 1; k >= 0; --k) {
        if (tile < 0 && block < sizes[k]) tile = (int)(k * all_tiles + block);
        block -= sizes[k];
    }
    return order[tile];
}

// Calls visit(tile, source lane's payload) for each tile that the ellipse touches. All lanes of the warp take part; an
// ellipse over many tiles is shared out among them.
template <class Visit>
__device__ inline void for_each_tile(const Grid& grid, bool any, ushort4 box, float4 a, float4 b, unsigned long long payload,
                                     Visit visit) {
    const int columns = any ? box.z - box.x : 0, area = any ? columns * (box.w - box.y) : 0;
    const bool large = area > 24;
    if (area > 0 && !large) {
        const EllipseTest test({b.x, b.y, b.z}, a.w);
        for (int y = box.y; y < box.w; ++y) {
            for (int x = box.x; x < box.z; ++x) {
                const float2 m = mean_from(a, (float)(x * TILE), (float)(y * TILE));
                if (test.touches(test.across(m.x, 0.5f, TILE - 0.5f), test.down(m.y, 0.5f, TILE - 0.5f))) {
                    visit(y * grid.columns + x, payload);
                }
            }
        }
    }
    unsigned pending = __ballot_sync(FULL, large);
    while (pending) {
        const int source = __ffs(pending) - 1;
        pending &= pending - 1;
        float4 sa, sb;
        sa.x = __shfl_sync(FULL, a.x, source), sa.y = __shfl_sync(FULL, a.y, source);
        sa.z = __shfl_sync(FULL, a.z, source), sa.w = __shfl_sync(FULL, a.w, source);
        sb.x = __shfl_sync(FULL, b.x, source), sb.y = __shfl_sync(FULL, b.y, source), sb.z = __shfl_sync(FULL, b.z, source);
        const int x0 = __shfl_sync(FULL, (int)box.x, source), y0 = __shfl_sync(FULL, (int)box.y, source);
        const int wide = __shfl_sync(FULL, columns, source), all = __shfl_sync(FULL, area, source);
        const unsigned long long load = __shfl_sync(FULL, payload, source);
        const EllipseTest test({sb.x, sb.y, sb.z}, sa.w);
        for (int i = threadIdx.x & 31; i < all; i += 32) {
            const int x = x0 + i % wide, y = y0 + i / wide;
            const float2 m = mean_from(sa, (float)(x * TILE), (float)(y * TILE));
            if (test.touches(test.across(m.x, 0.5f, TILE - 0.5f), test.down(m.y, 0.5f, TILE - 0.5f))) {
                visit(y * grid.columns + x, load);
            }
        }
    }
}

// Tiles that hold a pixel centre of the box about (u, v), clipped to the image.
__device__ inline ushort4 box_of(const Grid& grid, float u, float v, float half_x, float half_y) {
    const float scale = 1.0f / TILE;
    const int x0 = (int)fminf(fmaxf(floorf((u - half_x) * scale), 0.0f), (float)grid.columns);
    const int y0 = (int)fminf(fmaxf(floorf((v - half_y) * scale), 0.0f), (float)grid.rows);
    const int x1 = (int)fminf(fmaxf(floorf((u + half_x) * scale) + 1.0f, 0.0f), (float)grid.columns);
    const int y1 = (int)fminf(fmaxf(floorf((v + half_y) * scale) + 1.0f, 0.0f), (float)grid.rows);
    return make_ushort4((unsigned short)x0, (unsigned short)y0, (unsigned short)x1, (unsigned short)y1);
}

#endif

}  // namespace av
