// What the stages of the CPU splat share: the 64-byte record of a projected Gaussian and the layout of the workspaces.
//
// project → records → one depth sort per camera → Gaussian-tile instances in depth order, each with the set of 4×4
// blocks of the tile that its ellipse touches → stable counting sort into 16×16 tiles → composite tile by tile.
// Backward: each tile writes the gradient of each of its instances into the instance's own slot; slots of a Gaussian are neighbours
// and are summed in order. No atomics: the same bits on any number of threads.
#pragma once
#include "../include/abi.h"
#include "../include/gaussian.h"
#include "../include/tile.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

struct alignas(64) Record {
    float u, v;        // pixels
    float a, b, c;     // log2 of alpha = log2_opacity + (a dx + b dy) dx + c dy²: the conic times -½ log2(e), b times -log2(e)
    float log2_opacity;
    float r, g, blue;
    float z;
    float extent2;     // squared Mahalanobis radius of the alpha cut-off
    uint16_t x0, y0, x1, y1;  // tiles [x0, x1) × [y0, y1) that its box touches; x0 == x1 when culled
    uint32_t first;    // first slot, counted from the start of its block of 64
    uint32_t count;    // slots in use
    float reserved;
};
static_assert(sizeof(Record) == 64, "a record is a cache line");

struct Instance {
    uint32_t record;  // camera · N + Gaussian
    uint32_t slot;
    uint32_t blocks;  // bit 4·row + column of each 4×4 block that the ellipse touches
};

enum {
    BLOCK = 64,    // Gaussians projected per task
    CHUNK = 64,    // instances of a tile between two looks at the transmittance
    MAX_PARTS = 16  // pieces of the sorted order that are binned in parallel
};

constexpr float kHalfLog2e = 0.72134752044448170f;
constexpr float kLog2AlphaMin = -7.9943534368588578f;
constexpr float kLog2AlphaMax = -0.0014434168696687f;

struct Size {
    int64_t N, C, blocks, parts;  // blocks and parts per camera
    int32_t width, height, tiles_x, tiles_y;
    int64_t tiles;     // per camera
    int64_t capacity;  // slots
};

AV_INLINE Size make_size(int64_t N, int64_t C, int32_t width, int32_t height, int64_t capacity) {
    Size s;
    s.N = N, s.C = C, s.width = width, s.height = height, s.capacity = capacity;
    s.blocks = (N + BLOCK - 1) / BLOCK;
    s.parts = N / 1024 + 1;
    if (s.parts > MAX_PARTS) s.parts = MAX_PARTS;
    s.tiles_x = (width + AV_TILE - 1) / AV_TILE, s.tiles_y = (height + AV_TILE - 1) / AV_TILE;
    s.tiles = (int64_t)s.tiles_x * s.tiles_y;
    return s;
}

// Hands out consecutive, cache-aligned pieces of a workspace; with a null base it only measures.
struct Arena {
    char* base;
    int64_t used;
    template <class T>
    AV_INLINE T* take(int64_t count) {
        char* p = base + used;
        used += (count * (int64_t)sizeof(T) + 63) / 64 * 64;
        return (T*)p;
    }
};

struct Saved {  // forward → backward
    Record* records;        // [C, N]
    int64_t* block_first;   // [C · blocks + 1] first slot of each block of Gaussians
    Instance* instances;    // [capacity] by tile, front to back
    int64_t* tile_first;    // [C · tiles + 1]
    int64_t bytes;
};

AV_INLINE Saved saved_layout(const Size& s, void* base) {
    Arena arena = {(char*)base, 0};
    Saved w;
    w.records = arena.take<Record>(s.C * s.N);
    w.block_first = arena.take<int64_t>(s.C * s.blocks + 1);
    w.tile_first = arena.take<int64_t>(s.C * s.tiles + 1);
    w.instances = arena.take<Instance>(s.capacity);
    w.bytes = arena.used;
    return w;
}

struct Keyed {
    uint32_t key, id;
};

struct Slots {  // what a Gaussian in the sorted order brings
    uint32_t first, count;
};

struct ForwardScratch {
    uint32_t* keys;         // [C, N] bits of the depth, all ones: nothing to draw
    Keyed* order[2];        // [C, N] each
    Slots* spans;           // [C, N] in the sorted order
    int32_t* visible;       // [C]
    uint32_t* slot_tile;    // [capacity]
    uint16_t* slot_blocks;  // [capacity]
    uint32_t* histogram;    // [C, parts, tiles]
    float* slot_weight;     // [capacity] contributions
    int64_t bytes;
};

AV_INLINE ForwardScratch forward_layout(const Size& s, void* base) {
    Arena arena = {(char*)base, 0};
    ForwardScratch w;
    w.keys = arena.take<uint32_t>(s.C * s.N);
    for (int i = 0; i < 2; ++i) w.order[i] = arena.take<Keyed>(s.C * s.N);
    w.spans = arena.take<Slots>(s.C * s.N);
    w.visible = arena.take<int32_t>(s.C);
    w.histogram = arena.take<uint32_t>(s.C * s.parts * s.tiles);
    w.slot_tile = arena.take<uint32_t>(s.capacity);
    w.slot_blocks = arena.take<uint16_t>(s.capacity);
    w.slot_weight = arena.take<float>(s.capacity);
    w.bytes = arena.used;
    return w;
}

// Gradients of one instance: moments of v = ∂L/∂ln(alpha) over its pixels, then Σ w·∂L/∂color, Σ w·∂L/∂depth, Σ w.
struct alignas(64) Slot {
    float m0, mx, my, mxx, mxy, myy, r, g, b, z, weight, unused[5];
};

AV_INLINE int64_t backward_bytes(const Size& s) { return (s.capacity + 1) * (int64_t)sizeof(Slot); }

struct Pixels {  // images of one forward or backward pass
    const float* backgrounds;
    float *color, *alpha, *depth;
    const float *v_color, *v_alpha, *v_depth;
};

}  // namespace AV_NS
}  // namespace av
