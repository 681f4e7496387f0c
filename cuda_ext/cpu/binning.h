// From records to instances sorted by tile, front to back.
#pragma once
#include "splat.h"

namespace av {
inline namespace AV_NS {

// counts [parts, bins] become positions: after all parts of lower bins and earlier parts of the same one, from `position` on. Those of
// the bins themselves go to `first` [bins + 1], if given.
static int64_t counts_to_positions(uint32_t* counts, int64_t parts, int64_t bins, int64_t position, int64_t* first) {
    enum { GROUP = 64 };
    for (int64_t at = 0; at < bins; at += GROUP) {
        const int many = bins - at < GROUP ? (int)(bins - at) : GROUP;
        uint32_t start[GROUP] = {0};
        for (int64_t part = 0; part < parts; ++part)
            for (int i = 0; i < many; ++i) start[i] += counts[part * bins + at + i];
        for (int i = 0; i < many; ++i) {
            const uint32_t count = start[i];
            start[i] = (uint32_t)position;
            if (first) first[at + i] = position;
            position += count;
        }
        for (int64_t part = 0; part < parts; ++part)
            for (int i = 0; i < many; ++i) {
                uint32_t& count = counts[part * bins + at + i];
                const uint32_t mine = start[i];
                start[i] += count;
                count = mine;
            }
    }
    if (first) first[bins] = position;
    return position;
}

// Sorts the Gaussians of each camera that have something to draw by depth, stably; where they are: [C, N], scratch.drawn[c] of each.
// Least significant digit radix sort on the bits of the positive floats, less their minimum: a head's depths differ in 23 bits, which
// are two digits of twelve. A stable order is the same however it is cut into parts.
static const Keyed* sort_by_depth(const Size& size, const ForwardScratch& scratch, int threads) {
    uint32_t range = 0;
    for (int64_t c = 0; c < size.C; ++c) {
        uint32_t low = ~0u, high = 0;
        int32_t drawn = 0;
        for (int64_t block = 0; block < size.blocks; ++block) {
            BlockCount& count = scratch.counts[c * size.blocks + block];
            low = count.low < low ? count.low : low;
            high = count.high > high ? count.high : high;
            const int32_t mine = count.drawn;
            count.drawn = drawn;
            drawn += mine;
        }
        scratch.drawn[c] = drawn, scratch.low[c] = low;
        if (drawn && high - low > range) range = high - low;
    }
    int width = 1;
    while (width < 32 && range >> width) ++width;
    const int passes = (width + DIGIT - 1) / DIGIT, digit = (width + passes - 1) / passes;
    const uint32_t mask = (1u << digit) - 1;
    const auto first_block = [&](int64_t part) { return part * size.blocks / size.parts; };
    for (int pass = 0; pass < passes; ++pass) {
        const uint32_t shift = (uint32_t)(pass * digit);
        // Parts of the first pass are of blocks: what is counted is also compacted.
        const auto begin = [&](int64_t c, int64_t part) -> int64_t {
            if (part == 0 || part == size.parts) return part ? scratch.drawn[c] : 0;
            return pass ? part * scratch.drawn[c] / size.parts : scratch.counts[c * size.blocks + first_block(part)].drawn;
        };
        Keyed* const from = scratch.order[pass & 1];
        Keyed* const to = scratch.order[~pass & 1];
        parallel_for(threads, size.C * size.parts, [&](int64_t task, int) {
            const int64_t c = task / size.parts, part = task % size.parts;
            Keyed* const in = from + c * size.N;
            uint32_t* const histogram = scratch.histogram + (task << digit);
            const uint32_t low = scratch.low[c];
            memset(histogram, 0, sizeof(uint32_t) << digit);
            if (pass == 0) {
                const int64_t last = first_block(part + 1) * BLOCK < size.N ? first_block(part + 1) * BLOCK : size.N;
                const int64_t end = begin(c, part + 1);
                int64_t at = begin(c, part);
                const uint32_t* keys = scratch.keys + c * size.N;
                for (int64_t n = first_block(part) * BLOCK; at < end && n < last; ++n) {
                    in[at] = {keys[n] - low, (uint32_t)n};
                    at += keys[n] != ~0u;  // no branch: what is not drawn is overwritten
                }
            }
            const int64_t end = begin(c, part + 1);
            for (int64_t i = begin(c, part); i < end; ++i) ++histogram[in[i].key >> shift & mask];
        });
        parallel_for(threads, size.C, [&](int64_t c, int) {
            counts_to_positions(scratch.histogram + ((c * size.parts) << digit), size.parts, mask + 1, 0, nullptr);
        });
        parallel_for(threads, size.C * size.parts, [&](int64_t task, int) {
            const int64_t c = task / size.parts, part = task % size.parts, end = begin(c, part + 1);
            const Keyed* const in = from + c * size.N;
            Keyed* const out = to + c * size.N;
            uint32_t* const position = scratch.histogram + (task << digit);
            for (int64_t i = begin(c, part); i < end; ++i) out[position[in[i].key >> shift & mask]++] = in[i];
        });
    }
    return scratch.order[passes & 1];
}

// The ellipse of a record, spread over lanes of 4×4 blocks: lane 4·row + column.
struct Ellipse {
    F16 a, b, c, b_a, b_c, extent2, x, y;  // x, y: of the first pixel centre of each block of a square at the origin, less the mean

    AV_INLINE Ellipse(const Record& r) {
        alignas(64) static const float columns[16] = {.5f, 4.5f, 8.5f, 12.5f, .5f, 4.5f, 8.5f, 12.5f, .5f, 4.5f, 8.5f, 12.5f, .5f, 4.5f, 8.5f, 12.5f};
        alignas(64) static const float rows[16] = {.5f, .5f, .5f, .5f, 4.5f, 4.5f, 4.5f, 4.5f, 8.5f, 8.5f, 8.5f, 8.5f, 12.5f, 12.5f, 12.5f, 12.5f};
        a = F16(r.a * (-1.0f / kHalfLog2e)), b = F16(r.b * (-0.5f / kHalfLog2e)), c = F16(r.c * (-1.0f / kHalfLog2e));
        b_a = F16(r.b_a), b_c = F16(r.b_c), extent2 = F16(r.extent2);
        x = load(columns) - F16(r.u), y = load(rows) - F16(r.v);
    }

    // Which blocks of the tile at pixel (left, top) hold a region of pixel centres that the ellipse reaches.
    AV_INLINE uint32_t touches(float left, float top) const {
        const F16 x0 = x + F16(left), y0 = y + F16(top);
        return bits(least_quadratic(a, b, c, b_a, b_c, x0, x0 + F16(3.0f), y0, y0 + F16(3.0f)) <= extent2);
    }
};

// What part `task` of the sorted order of one camera lists, front to back. Stores to where each instance belongs would wait for the
// caches one after another; these do not.
struct InstanceList {
    const ForwardScratch& scratch;
    Page* page;
    uint32_t* histogram;  // instances per tile
    Instance *start, *at, *end;

    AV_INLINE InstanceList(const Size& size, const ForwardScratch& scratch, int64_t task)
        : scratch(scratch), page(scratch.pages + task * part_pages(size)), histogram(scratch.histogram + task * size.tiles),
          start(nullptr), at(nullptr), end(nullptr) {
        memset(histogram, 0, (size_t)size.tiles * sizeof *histogram);
    }

    AV_INLINE void add(Instance instance) {
        if (at == end) {
            close();
            page->index = (uint32_t)__atomic_fetch_add(scratch.taken, 1, __ATOMIC_RELAXED);
            start = at = scratch.listed + (int64_t)page->index * PAGE, end = start + PAGE;
        }
        *at++ = instance;
    }
    AV_INLINE void close() {
        if (!start) return;
        page++->used = (uint32_t)(at - start);
        for (const Instance* i = start; i < at; ++i) ++histogram[i->tile];
    }
};

// Part of the sorted order of one camera: lists its instances, and counts them per tile. Returns how many pages that took.
static uint32_t list_instances(const Size& size, const Record* records, uint32_t record_base, const BlockCount* counts,
                               const Keyed* sorted, int64_t begin, int64_t end, Slots* slots, InstanceList list) {
    enum { AHEAD = 12 };
    const Page* const first_page = list.page;
    for (int64_t i = begin; i < end; ++i) {
        if (i + AHEAD < end) {  // depth order is memory disorder
            __builtin_prefetch(records + sorted[i + AHEAD].id);
            __builtin_prefetch(slots + sorted[i + AHEAD].id, 1);
        }
        const uint32_t id = sorted[i].id;
        const Record& r = records[id];
        const Ellipse ellipse(r);
        const uint32_t first = (uint32_t)counts[id / BLOCK].slots + slots[id].first;
        uint32_t slot = first;
        for (int ty = r.y0; ty < r.y1; ++ty)
            for (int tx = r.x0; tx < r.x1; ++tx) {
                const uint32_t blocks = ellipse.touches((float)(AV_TILE * tx), (float)(AV_TILE * ty));
                if (blocks) list.add({record_base + id, slot++, blocks, (uint32_t)(ty * size.tiles_x + tx)});
            }
        slots[id] = {first, slot - first};
    }
    list.close();
    return (uint32_t)(list.page - first_page);
}

// Everything between projection and compositing.
static void bin_instances(const Size& size, const Saved& saved, const ForwardScratch& scratch, int threads) {
    const Keyed* const sorted = sort_by_depth(size, scratch, threads);
    *scratch.taken = 0;
    parallel_for(threads, size.C * size.parts, [&](int64_t task, int) {
        const int64_t c = task / size.parts, part = task % size.parts, at = c * size.N;
        scratch.used_pages[task] = list_instances(
            size, saved.records + at, (uint32_t)at, scratch.counts + c * size.blocks, sorted + at, part * scratch.drawn[c] / size.parts,
            (part + 1) * scratch.drawn[c] / size.parts, saved.slots + at, InstanceList(size, scratch, task));
    });
    int64_t total = 0;
    for (int64_t c = 0; c < size.C; ++c)
        total = counts_to_positions(scratch.histogram + c * size.parts * size.tiles, size.parts, size.tiles, total,
                                    saved.tile_first + c * size.tiles);
    parallel_for(threads, size.C * size.parts, [&](int64_t task, int) {
        uint32_t* const positions = scratch.histogram + task * size.tiles;
        const Page* const pages = scratch.pages + task * part_pages(size);
        for (uint32_t p = 0; p < scratch.used_pages[task]; ++p) {
            const Instance* const listed = scratch.listed + (int64_t)pages[p].index * PAGE;
            for (uint32_t i = 0; i < pages[p].used; ++i) saved.instances[positions[listed[i].tile]++] = listed[i];
        }
    });
}

}  // namespace AV_NS
}  // namespace av
