// From records to instances sorted by tile, front to back.
#pragma once
#include "splat.h"

namespace av {
inline namespace AV_NS {

// Sorts the Gaussians of one camera that have something to draw by depth, stably; returns how many there are and leaves them in
// `*sorted`. Least significant digit radix sort on the bits of the positive floats, less their minimum: a head's depths differ in
// 23 bits, which are two digits of twelve.
static int32_t sort_by_depth(const uint32_t* keys, int64_t N, Keyed* const order[2], Keyed** sorted) {
    enum { DIGIT = 12 };
    int32_t count = 0;
    uint32_t low = ~0u, high = 0;
    for (int64_t n = 0; n < N; ++n) {
        const uint32_t key = keys[n];
        order[0][count] = {key, (uint32_t)n};
        const bool drawn = key != ~0u;
        count += drawn;  // no branch: what is not drawn is overwritten
        low = key < low ? key : low;
        high = drawn && key > high ? key : high;
    }
    int from = 0, width = 0;
    while (count && width < 32 && (high - low) >> width) ++width;
    const int passes = (width + DIGIT - 1) / DIGIT, digit = passes ? (width + passes - 1) / passes : 0;
    for (int pass = 0; pass < passes; ++pass) {
        uint32_t histogram[1 << DIGIT] = {0};
        const uint32_t shift = (uint32_t)(pass * digit), mask = (1u << digit) - 1;
        const Keyed* in = order[from];
        Keyed* out = order[from ^ 1];
        for (int32_t i = 0; i < count; ++i) ++histogram[(in[i].key - low) >> shift & mask];
        uint32_t total = 0;
        for (uint32_t d = 0; d <= mask; ++d) {
            const uint32_t h = histogram[d];
            histogram[d] = total;
            total += h;
        }
        for (int32_t i = 0; i < count; ++i) out[histogram[(in[i].key - low) >> shift & mask]++] = in[i];
        from ^= 1;
    }
    *sorted = order[from];
    return count;
}

// Which 4×4 blocks of the tile at pixel (x, y) hold a pixel centre region that the ellipse reaches.
AV_INLINE uint32_t touched_blocks(const Record& r, F16 a, F16 b, F16 c, F16 b_a, F16 b_c, F16 extent2, F16 block_x, F16 block_y,
                                  float x, float y) {
    const F16 x0 = block_x + F16(x + 0.5f - r.u), y0 = block_y + F16(y + 0.5f - r.v);
    const F16 least = least_quadratic(a, b, c, b_a, b_c, x0, x0 + F16(3.0f), y0, y0 + F16(3.0f));
    return bits(least <= extent2);
}

// Part `part` of the sorted order: fills the slots of its Gaussians and counts instances per tile.
static void fill_slots(const Size& size, Record* records, const int64_t* block_first, const Keyed* sorted, int64_t begin, int64_t end,
                       Slots* spans, uint32_t* slot_tile, uint16_t* slot_blocks, uint32_t* histogram) {
    float bx[16], by[16];
    for (int i = 0; i < 16; ++i) bx[i] = (float)(4 * (i % 4)), by[i] = (float)(4 * (i / 4));
    const F16 block_x = load(bx), block_y = load(by);
    memset(histogram, 0, (size_t)size.tiles * sizeof *histogram);
    for (int64_t i = begin; i < end; ++i) {
        if (i + 12 < end) __builtin_prefetch(records + sorted[i + 12].id, 1);  // depth order is memory disorder
        Record& r = records[sorted[i].id];
        int64_t slot = block_first[sorted[i].id / BLOCK] + r.first;
        const float fa = r.a * (-1.0f / kHalfLog2e), fb = r.b * (-0.5f / kHalfLog2e), fc = r.c * (-1.0f / kHalfLog2e);
        const F16 a = F16(fa), b = F16(fb), c = F16(fc), b_a = F16(fb / fa), b_c = F16(fb / fc), extent2 = F16(r.extent2);
        const int64_t first = slot;
        for (int ty = r.y0; ty < r.y1; ++ty) {
            for (int tx = r.x0; tx < r.x1; ++tx) {
                const uint32_t blocks = touched_blocks(r, a, b, c, b_a, b_c, extent2, block_x, block_y, (float)(tx * AV_TILE),
                                                       (float)(ty * AV_TILE));
                if (!blocks) continue;
                const uint32_t tile = (uint32_t)(ty * size.tiles_x + tx);
                slot_tile[slot] = tile;
                slot_blocks[slot++] = (uint16_t)blocks;
                ++histogram[tile];
            }
        }
        r.count = (uint32_t)(slot - first);
        spans[i] = {(uint32_t)first, r.count};
    }
}

static void scatter(const Keyed* sorted, const Slots* spans, int64_t begin, int64_t end, uint32_t record_base,
                    const uint32_t* slot_tile, const uint16_t* slot_blocks, uint32_t* histogram, Instance* instances) {
    for (int64_t i = begin; i < end; ++i) {
        if (i + 16 < end) __builtin_prefetch(slot_tile + spans[i + 16].first), __builtin_prefetch(slot_blocks + spans[i + 16].first);
        const uint32_t first = spans[i].first, last = first + spans[i].count;
        for (uint32_t slot = first; slot < last; ++slot)
            instances[histogram[slot_tile[slot]]++] = {record_base + sorted[i].id, slot, slot_blocks[slot]};
    }
}

// Everything between projection and compositing.
static void bin_instances(const Size& size, const Saved& saved, const ForwardScratch& scratch, int threads) {
    Keyed** sorted = (Keyed**)__builtin_alloca(sizeof(Keyed*) * (size_t)size.C);
    parallel_for(threads, size.C, [&](int64_t c, int) {
        const int64_t at = c * size.N;
        Keyed* const order[2] = {scratch.order[0] + at, scratch.order[1] + at};
        scratch.visible[c] = sort_by_depth(scratch.keys + at, size.N, order, &sorted[c]);
    });
    const auto part_begin = [&](int64_t c, int64_t part) { return part * scratch.visible[c] / size.parts; };
    parallel_for(threads, size.C * size.parts, [&](int64_t task, int) {
        const int64_t c = task / size.parts, part = task % size.parts;
        fill_slots(size, saved.records + c * size.N, saved.block_first + c * size.blocks, sorted[c], part_begin(c, part),
                   part_begin(c, part + 1), scratch.spans + c * size.N, scratch.slot_tile, scratch.slot_blocks,
                   scratch.histogram + task * size.tiles);
    });
    int64_t total = 0;
    for (int64_t c = 0; c < size.C; ++c) {
        for (int64_t tile = 0; tile < size.tiles; ++tile) {
            saved.tile_first[c * size.tiles + tile] = total;
            for (int64_t part = 0; part < size.parts; ++part) {
                uint32_t& h = scratch.histogram[(c * size.parts + part) * size.tiles + tile];
                const uint32_t count = h;
                h = (uint32_t)total;
                total += count;
            }
        }
    }
    saved.tile_first[size.C * size.tiles] = total;
    parallel_for(threads, size.C * size.parts, [&](int64_t task, int) {
        const int64_t c = task / size.parts, part = task % size.parts;
        scatter(sorted[c], scratch.spans + c * size.N, part_begin(c, part), part_begin(c, part + 1), (uint32_t)(c * size.N),
                scratch.slot_tile, scratch.slot_blocks, scratch.histogram + task * size.tiles, saved.instances);
    });
}

}  // namespace AV_NS
}  // namespace av
