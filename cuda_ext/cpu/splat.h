// What the stages of the CPU splat share: the 64-byte record of a projected Gaussian and the layout of the workspaces.
//
// project → records → one depth sort per camera → Gaussian-tile instances in depth order, each with the set of 4×4
// blocks of the tile that its ellipse touches → stable counting sort into 16×16 tiles → composite tile by tile.
// Backward: each tile writes the gradient of each of its instances into the instance's own slot; slots of a Gaussian are neighbours
// and are summed in order: the same bits on any number of threads. Chance decides only where in memory a page of the list lies.
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
    float b_a, b_c;    // b / a and b / c of the conic
    float reserved;
};
static_assert(sizeof(Record) == 64, "a record is a cache line");

struct alignas(16) Instance {
    uint32_t record;  // camera · N + Gaussian
    uint32_t slot;
    uint32_t blocks;  // bit 4·row + column of each 4×4 block of the tile that the ellipse touches
    uint32_t tile;
};

enum {
    BLOCK = 64,    // Gaussians projected per task
    CHUNK = 64,    // instances of a tile between two looks at the transmittance
    DIGIT = 12,    // bits per pass of the depth sort, at most
    PAGE = 512,    // instances of a part in depth order that lie in a row
    MAX_PARTS = 16  // pieces of the sorted order that are binned in parallel
};

constexpr float kHalfLog2e = 0.72134752044448170f;
constexpr float kLog2AlphaMin = -7.9943534368588578f;
constexpr float kLog2AlphaMax = -0.0014434168696687f;

struct Size {
    int64_t N, C, blocks, parts;  // blocks and parts per camera; parts: of one call, no result depends on them
    int32_t width, height, tiles_x, tiles_y;
    int64_t tiles;     // per camera
    int64_t capacity;  // slots
};

AV_INLINE Size make_size(int64_t N, int64_t C, int32_t width, int32_t height, int64_t capacity, int threads) {
    Size s;
    s.N = N, s.C = C, s.width = width, s.height = height, s.capacity = capacity;
    s.blocks = (N + BLOCK - 1) / BLOCK;
    s.parts = threads < 2 ? 1 : threads < MAX_PARTS / 4 ? 4 * threads : MAX_PARTS;
    if (s.parts > N / 1024 + 1) s.parts = N / 1024 + 1;
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

struct Slots {  // of one Gaussian in one camera
    uint32_t first, count;
};

// What the backward pass would have to read all coefficients of sixteen Gaussians for. 0 where culled.
struct alignas(64) Shade {
    float along[9][16];   // ∂colour[i]/∂mean[j], row 3i + j
    uint16_t visible, free[3];  // lanes; free: the colour was not clamped at zero
};

struct Saved {  // forward → backward
    Record* records;        // [C, N]
    Slots* slots;           // [C, N]
    Shade* shades;          // [C, shade_groups] or none
    Instance* instances;    // [capacity] by tile, front to back
    int64_t* tile_first;    // [C · tiles + 1]
    int64_t bytes;
};

AV_INLINE int64_t shade_groups(const Size& s) { return s.blocks * (BLOCK / 16); }  // per camera

AV_INLINE Saved saved_layout(const Size& s, void* base, bool shaded) {
    Arena arena = {(char*)base, 0};
    Saved w;
    w.records = arena.take<Record>(s.C * s.N);
    w.slots = arena.take<Slots>(s.C * s.N);
    w.shades = shaded ? arena.take<Shade>(s.C * shade_groups(s)) : nullptr;
    w.tile_first = arena.take<int64_t>(s.C * s.tiles + 1);
    w.instances = arena.take<Instance>(s.capacity);
    w.bytes = arena.used;
    return w;
}

struct Keyed {
    uint32_t key, id;
};

struct BlockCount {  // of one block of Gaussians in one camera; prefix sums of the first two once all are projected
    int64_t slots;
    int32_t drawn;       // Gaussians that have something to draw
    uint32_t low, high;  // their least and largest key
};

struct Page {  // in ForwardScratch::listed
    uint32_t index, used;
};

struct ForwardScratch {
    uint32_t* keys;         // [C, N] bits of the depth, all ones: nothing to draw
    BlockCount* counts;     // [C, blocks]
    Keyed* order[2];        // [C, N] each
    int32_t* drawn;         // [C]
    uint32_t* low;          // [C] least key
    Instance* listed;       // in depth order; each part of the sorted order takes one page after another
    Page* pages;            // [C, parts, part_pages] which ones it took
    uint32_t* used_pages;   // [C, parts]
    int64_t* taken;         // [1] pages by all
    uint32_t* histogram;    // [C, parts, tiles or digits]
    float* slot_weight;     // [capacity] contributions
    int64_t bytes;
};

AV_INLINE int64_t part_pages(const Size& s) { return s.capacity / PAGE + 1; }  // that one part may need

AV_INLINE ForwardScratch forward_layout(const Size& s, void* base) {
    Arena arena = {(char*)base, 0};
    ForwardScratch w;
    w.keys = arena.take<uint32_t>(s.C * s.N);
    w.counts = arena.take<BlockCount>(s.C * s.blocks);
    for (int i = 0; i < 2; ++i) w.order[i] = arena.take<Keyed>(s.C * s.N);
    w.drawn = arena.take<int32_t>(s.C);
    w.low = arena.take<uint32_t>(s.C);
    w.histogram = arena.take<uint32_t>(s.C * s.parts * (s.tiles > (1 << DIGIT) ? s.tiles : 1 << DIGIT));
    w.listed = arena.take<Instance>((part_pages(s) + s.C * s.parts) * PAGE);
    w.pages = arena.take<Page>(s.C * s.parts * part_pages(s));
    w.used_pages = arena.take<uint32_t>(s.C * s.parts);
    w.taken = arena.take<int64_t>(1);
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
