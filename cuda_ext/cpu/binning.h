// From records to instances sorted by tile, front to back.
#pragma once
#include "splat.h"

namespace av {
inline namespace AV_NS {

// Sorts the visible Gaussians of one camera by depth, stably; returns how many there are and leaves ids in `*sorted`. Least
// significant digit radix sort on the bits of the positive floats, less their minimum: head-sized depth ranges need two passes.
static int32_t sort_by_depth(const Record* records, int64_t N, uint32_t* keys[2], uint32_t* ids[2], uint32_t** sorted) {
    int32_t count = 0;
    uint32_t low = ~0u, high = 0;
    for (int64_t n = 0; n < N; ++n) {
        const Record& r = records[n];
        if (r.x0 == r.x1) continue;
        uint32_t key;
        memcpy(&key, &r.z, 4);
        low = key < low ? key : low;
        high = key > high ? key : high;
        keys[0][count] = key;
        ids[0][count++] = (uint32_t)n;
    }
    int from = 0;
    const uint32_t range = count ? high - low : 0;
    for (int shift = 0; shift < 32 && range >> shift; shift += 11) {
        uint32_t histogram[2048] = {0};
        const uint32_t *key = keys[from], *id = ids[from];
        uint32_t *key_out = keys[from ^ 1], *id_out = ids[from ^ 1];
        for (int32_t i = 0; i < count; ++i) ++histogram[(key[i] - low) >> shift & 2047];
        uint32_t total = 0;
        for (int d = 0; d < 2048; ++d) {
            const uint32_t h = histogram[d];
            histogram[d] = total;
            total += h;
        }
        for (int32_t i = 0; i < count; ++i) {
            const uint32_t to = histogram[(key[i] - low) >> shift & 2047]++;
            key_out[to] = key[i];
            id_out[to] = id[i];
        }
        from ^= 1;
    }
    *sorted = ids[from];
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
static void fill_slots(const Size& size, Record* records, const int64_t* block_first, const uint32_t* sorted, int64_t begin,
                       int64_t end, uint32_t* slot_tile, uint16_t* slot_blocks, uint32_t* histogram) {
    float bx[16], by[16];
    for (int i = 0; i < 16; ++i) bx[i] = (float)(4 * (i % 4)), by[i] = (float)(4 * (i / 4));
    const F16 block_x = load(bx), block_y = load(by);
    memset(histogram, 0, (size_t)size.tiles * sizeof *histogram);
    for (int64_t i = begin; i < end; ++i) {
        if (i + 8 < end) __builtin_prefetch(records + sorted[i + 8]);  // depth order is memory disorder
        Record& r = records[sorted[i]];
        int64_t slot = block_first[sorted[i] / BLOCK] + r.first;
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
    }
}

static void scatter(const Record* records, const int64_t* block_first, const uint32_t* sorted, int64_t begin, int64_t end,
                    uint32_t record_base, const uint32_t* slot_tile, const uint16_t* slot_blocks, uint32_t* histogram,
                    Instance* instances) {
    for (int64_t i = begin; i < end; ++i) {
        if (i + 8 < end) __builtin_prefetch(records + sorted[i + 8]);
        const Record& r = records[sorted[i]];
        const int64_t first = block_first[sorted[i] / BLOCK] + r.first;
        for (int64_t slot = first; slot < first + r.count; ++slot)
            instances[histogram[slot_tile[slot]]++] = {record_base + sorted[i], (uint32_t)slot, slot_blocks[slot]};
    }
}

// Everything between projection and compositing.
static void bin_instances(const Size& size, const Saved& saved, const ForwardScratch& scratch, int threads) {
    uint32_t** sorted = (uint32_t**)__builtin_alloca(sizeof(uint32_t*) * (size_t)size.C);
    parallel_for(threads, size.C, [&](int64_t c, int) {
        const int64_t at = c * size.N;
        uint32_t* keys[2] = {scratch.keys[0] + at, scratch.keys[1] + at};
        uint32_t* ids[2] = {scratch.ids[0] + at, scratch.ids[1] + at};
        scratch.visible[c] = sort_by_depth(saved.records + at, size.N, keys, ids, &sorted[c]);
    });
    const auto part_begin = [&](int64_t c, int64_t part) { return part * scratch.visible[c] / size.parts; };
    parallel_for(threads, size.C * size.parts, [&](int64_t task, int) {
        const int64_t c = task / size.parts, part = task % size.parts;
        fill_slots(size, saved.records + c * size.N, saved.block_first + c * size.blocks, sorted[c], part_begin(c, part),
                   part_begin(c, part + 1), scratch.slot_tile, scratch.slot_blocks, scratch.histogram + task * size.tiles);
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
        scatter(saved.records + c * size.N, saved.block_first + c * size.blocks, sorted[c], part_begin(c, part),
                part_begin(c, part + 1), (uint32_t)(c * size.N), scratch.slot_tile, scratch.slot_blocks,
                scratch.histogram + task * size.tiles, saved.instances);
    });
}

}  // namespace AV_NS
}  // namespace av
