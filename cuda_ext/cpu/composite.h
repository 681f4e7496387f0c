// Compositing of one tile, and its gradient. A 4×4 block of pixels is one sixteen-lane vector.
#pragma once
#include "splat.h"

namespace av {
inline namespace AV_NS {

struct TileView {
    int64_t camera;
    int x, y;  // first pixel
    const Instance* begin;
    const Instance* end;
};

AV_INLINE TileView tile_view(const Size& size, const Saved& saved, int64_t index) {
    const int64_t camera = index / size.tiles, tile = index % size.tiles;
    return {camera, (int)(tile % size.tiles_x) * AV_TILE, (int)(tile / size.tiles_x) * AV_TILE,
            saved.instances + saved.tile_first[index], saved.instances + saved.tile_first[index + 1]};
}

// Pixel centres of the lanes of block 0, relative to the tile.
struct LaneOffsets {
    float x[16], y[16];
};
constexpr LaneOffsets kLaneOffsets = {{.5f, 1.5f, 2.5f, 3.5f, .5f, 1.5f, 2.5f, 3.5f, .5f, 1.5f, 2.5f, 3.5f, .5f, 1.5f, 2.5f, 3.5f},
                                      {.5f, .5f, .5f, .5f, 1.5f, 1.5f, 1.5f, 1.5f, 2.5f, 2.5f, 2.5f, 2.5f, 3.5f, 3.5f, 3.5f, 3.5f}};

// Pixel centres of the columns and rows of blocks of a tile.
struct BlockCentres {
    F16 x[4], y[4];
};
AV_INLINE BlockCentres block_centres(const TileView& tile) {
    BlockCentres centres;
    for (int i = 0; i < 4; ++i) {
        centres.x[i] = load(kLaneOffsets.x) + F16((float)(tile.x + 4 * i));
        centres.y[i] = load(kLaneOffsets.y) + F16((float)(tile.y + 4 * i));
    }
    return centres;
}

// 1, and 0 at pixels beyond the image, which therefore take no part in anything.
AV_INLINE F16 transmittance_at_start(const Size& size, const BlockCentres& centres, int b) {
    return keep((centres.x[b % 4] < F16((float)size.width)) & (centres.y[b / 4] < F16((float)size.height)), F16(1.0f));
}

// For each of the 16 blocks, the set of up to 64 instances that touch it.
AV_INLINE void transpose_sets(const Instance* instances, int count, uint64_t* sets) {
#if AV_ISA >= 512
    alignas(64) uint16_t masks[64];
    for (int i = 0; i < count; ++i) masks[i] = (uint16_t)instances[i].blocks;
    for (int i = count; i < 64; ++i) masks[i] = 0;
    const __m512i low = _mm512_load_si512(masks), high = _mm512_load_si512(masks + 32);
    for (int b = 0; b < 16; ++b) {
        const __m512i bit = _mm512_set1_epi16((short)(1 << b));
        sets[b] = (uint64_t)_mm512_test_epi16_mask(low, bit) | (uint64_t)_mm512_test_epi16_mask(high, bit) << 32;
    }
#else
    memset(sets, 0, 16 * sizeof *sets);
    for (int i = 0; i < count; ++i)
        for (uint32_t m = instances[i].blocks; m; m &= m - 1) sets[__builtin_ctz(m)] |= (uint64_t)1 << i;
#endif
}

// alpha of one Gaussian at sixteen pixels, before masking and without the clamp applied to `raw`'s mask.
struct Alpha {
    F16 dx, dy, alpha;
    M16 counts;     // not below the cut-off
    M16 unclamped;  // its derivative passes
};

AV_INLINE Alpha evaluate(const Record& r, F16 px, F16 py) {
    Alpha out;
    out.dx = px - F16(r.u);
    out.dy = py - F16(r.v);
    const F16 inner = fma_(F16(r.a), out.dx, F16(r.b) * out.dy);
    const F16 e = fma_(F16(r.c) * out.dy, out.dy, fma_(inner, out.dx, F16(r.log2_opacity)));
    out.counts = e >= F16(kLog2AlphaMin);
    out.unclamped = e <= F16(kLog2AlphaMax);
    out.alpha = exp2_(min_(e, F16(kLog2AlphaMax)));  // garbage far below the cut-off, masked by the caller
    return out;
}

// A block's lanes to or from an image with P floats per pixel; pixels outside of the image are left alone (read as 0).
template <int P>  // 1 or 3
AV_INLINE void store_block(float* image, const Size& size, int x, int y, const F16* values) {
#if AV_ISA >= 256
    if (x + 4 <= size.width && y + 4 <= size.height) {
        float* to = image + ((int64_t)y * size.width + x) * P;
        if (P == 3)
            store_pixels(to, (int64_t)P * size.width, values);
        else
            store_square(to, size.width, values[0]);
        return;
    }
#endif
    float lanes[P][16];
    for (int p = 0; p < P; ++p) store(lanes[p], values[p]);
    for (int row = 0; row < 4 && y + row < size.height; ++row)
        for (int col = 0; col < 4 && x + col < size.width; ++col)
            for (int p = 0; p < P; ++p) image[((int64_t)(y + row) * size.width + x + col) * P + p] = lanes[p][4 * row + col];
}
template <int P>
AV_INLINE void load_block(const float* image, const Size& size, int x, int y, F16* values) {
#if AV_ISA >= 256
    if (x + 4 <= size.width && y + 4 <= size.height) {
        const float* from = image + ((int64_t)y * size.width + x) * P;
        if (P == 3)
            load_pixels(from, (int64_t)P * size.width, values);
        else
            values[0] = load_square(from, size.width);
        return;
    }
#endif
    float lanes[P][16] = {};
    for (int row = 0; row < 4 && y + row < size.height; ++row)
        for (int col = 0; col < 4 && x + col < size.width; ++col)
            for (int p = 0; p < P; ++p) lanes[p][4 * row + col] = image[((int64_t)(y + row) * size.width + x + col) * P + p];
    for (int p = 0; p < P; ++p) values[p] = load(lanes[p]);
}

template <bool kDepth, bool kWeights>
static void composite_tile(const Size& size, const Saved& saved, const Pixels& images, int64_t index, float* slot_weight) {
    const TileView tile = tile_view(size, saved, index);
    F16 T[16], red[16], green[16], blue[16], z[16];
    const BlockCentres centres = block_centres(tile);
    for (int b = 0; b < 16; ++b) {
        T[b] = transmittance_at_start(size, centres, b);
        red[b] = green[b] = blue[b] = z[b] = F16(0.0f);
    }
    uint32_t open = 0xffff;
    for (const Instance* chunk = tile.begin; chunk < tile.end && open; chunk += CHUNK) {
        const int count = tile.end - chunk < CHUNK ? (int)(tile.end - chunk) : CHUNK;
        for (int i = 0; i < count; ++i) __builtin_prefetch(saved.records + chunk[i].record);
        if (kWeights)
            for (int i = 0; i < count; ++i) slot_weight[chunk[i].slot] = 0.0f;
        uint64_t sets[16];
        transpose_sets(chunk, count, sets);
        for (uint32_t left = open; left; left &= left - 1) {
            const int b = __builtin_ctz(left);
            uint64_t set = sets[b];
            if (!set) continue;
            const F16 px = centres.x[b % 4], py = centres.y[b / 4];
            F16 t = T[b], cr = red[b], cg = green[b], cb = blue[b], cz = z[b];
            for (; set; set &= set - 1) {
                const Instance& instance = chunk[__builtin_ctzll(set)];
                const Record& r = saved.records[instance.record];
                const Alpha a = evaluate(r, px, py);
                const F16 w = keep(a.counts, a.alpha * t);
                t -= w;
                cr = fma_(w, F16(r.r), cr);
                cg = fma_(w, F16(r.g), cg);
                cb = fma_(w, F16(r.blue), cb);
                if (kDepth) cz = fma_(w, F16(r.z), cz);
                if (kWeights) slot_weight[instance.slot] += sum(w);
            }
            T[b] = t, red[b] = cr, green[b] = cg, blue[b] = cb, z[b] = cz;
            if (max_of(t) < AV_TRANSMITTANCE_MIN) open &= ~(1u << b);
        }
        if (kWeights && !open)
            for (const Instance* rest = chunk + CHUNK; rest < tile.end; ++rest) slot_weight[rest->slot] = 0.0f;
    }
    const float* background = images.backgrounds ? images.backgrounds + 3 * tile.camera : nullptr;
    const int64_t pixels = (int64_t)size.width * size.height;
    for (int b = 0; b < 16; ++b) {
        const int x = tile.x + 4 * (b % 4), y = tile.y + 4 * (b / 4);
        if (x >= size.width || y >= size.height) continue;
        F16 color[3] = {red[b], green[b], blue[b]};
        if (background)
            for (int i = 0; i < 3; ++i) color[i] = fma_(T[b], F16(background[i]), color[i]);
        store_block<3>(images.color + 3 * pixels * tile.camera, size, x, y, color);
        const F16 alpha = F16(1.0f) - T[b];
        store_block<1>(images.alpha + pixels * tile.camera, size, x, y, &alpha);
        if (kDepth) {
            const F16 depth = z[b] / max_(alpha, F16(AV_DEPTH_ALPHA_MIN));
            store_block<1>(images.depth + pixels * tile.camera, size, x, y, &depth);
        }
    }
}

// Front to back again, with one running scalar per pixel: `rest` = ∂L/∂color · (colour still to come, background included).
// ∂L/∂alpha_i = T_i (c_i·g) - rest_i / (1 - alpha_i). kAlpha, kDepth: gradients to those as well, to depth
// only with those to alpha. kWeights: the sums of w too.
template <bool kAlpha, bool kDepth, bool kWeights>
static void composite_tile_backward(const Size& size, const Saved& saved, const Pixels& images, int64_t index, Slot* slots) {
    const TileView tile = tile_view(size, saved, index);
    if (tile.begin == tile.end) return;
    F16 T[16], rest[16], g[16][3], g_z[16], g_w[16];
    const int64_t pixels = (int64_t)size.width * size.height, at = pixels * tile.camera;
    const BlockCentres centres = block_centres(tile);
    for (int b = 0; b < 16; ++b) {
        const int x = tile.x + 4 * (b % 4), y = tile.y + 4 * (b / 4);
        F16 color[3];
        load_block<3>(images.v_color + 3 * at, size, x, y, g[b]);
        load_block<3>(images.color + 3 * at, size, x, y, color);
        T[b] = transmittance_at_start(size, centres, b);
        rest[b] = g[b][0] * color[0] + g[b][1] * color[1] + g[b][2] * color[2];
        if (kAlpha) {
            F16 alpha, depth, v_depth;
            g_w[b] = F16(0.0f);
            load_block<1>(images.alpha + at, size, x, y, &alpha);
            if (images.v_alpha) load_block<1>(images.v_alpha + at, size, x, y, &g_w[b]);
            if (kDepth) {  // depth = Σ w z / alpha
                load_block<1>(images.v_depth + at, size, x, y, &v_depth);
                load_block<1>(images.depth + at, size, x, y, &depth);
                g_z[b] = v_depth / max_(alpha, F16(AV_DEPTH_ALPHA_MIN));
                g_w[b] = select(alpha > F16(AV_DEPTH_ALPHA_MIN), g_w[b] - g_z[b] * depth, g_w[b]);
                rest[b] += g_z[b] * depth * alpha;
            }
            rest[b] += g_w[b] * alpha;
        }
    }
    uint32_t open = 0xffff, used = 0;
    int in_chunk = 0;
    for (const Instance* instance = tile.begin; instance < tile.end; ++instance) {
        if (in_chunk == CHUNK) {  // stop where the forward pass stopped
            for (uint32_t left = used & open; left; left &= left - 1) {
                const int b = __builtin_ctz(left);
                if (max_of(T[b]) < AV_TRANSMITTANCE_MIN) open &= ~(1u << b);
            }
            in_chunk = 0, used = 0;
        }
        ++in_chunk;
        if (tile.end - instance > 8) {
            __builtin_prefetch(saved.records + instance[8].record);
            __builtin_prefetch(slots + instance[8].slot, 1);
        }
        const Record& r = saved.records[instance->record];
        F16 s[12];
        for (int i = 0; i < 12; ++i) s[i] = F16(0.0f);
        uint32_t left = instance->blocks & open;
        used |= left;
        for (; left; left &= left - 1) {
            const int b = __builtin_ctz(left);
            const F16 px = centres.x[b % 4], py = centres.y[b / 4];
            const Alpha a = evaluate(r, px, py);
            const F16 alpha = keep(a.counts, a.alpha);
            const F16 w = alpha * T[b];
            F16 value = fma_(F16(r.r), g[b][0], fma_(F16(r.g), g[b][1], F16(r.blue) * g[b][2]));
            if (kAlpha) value = value + g_w[b];
            if (kDepth) value = fma_(F16(r.z), g_z[b], value);
            rest[b] = fnma_(w, value, rest[b]);
            // ∂L/∂ln(alpha) = alpha ∂L/∂alpha; fused products, because the two terms cancel where little is gained
            const F16 behind = rest[b] * (alpha * reciprocal(F16(1.0f) - alpha));
            const F16 v = keep(a.unclamped, fma_(w, value, -behind));
            T[b] -= w;
            const F16 vx = v * a.dx, vy = v * a.dy;
            s[0] += v, s[1] += vx, s[2] += vy;
            s[3] = fma_(vx, a.dx, s[3]);
            s[4] = fma_(vx, a.dy, s[4]);
            s[5] = fma_(vy, a.dy, s[5]);
            s[6] = fma_(w, g[b][0], s[6]);
            s[7] = fma_(w, g[b][1], s[7]);
            s[8] = fma_(w, g[b][2], s[8]);
            if (kDepth) s[9] = fma_(w, g_z[b], s[9]);
            if (kWeights) s[10] += w;
        }
        store((float*)&slots[instance->slot], sums_of_twelve(s));
    }
}

}  // namespace AV_NS
}  // namespace av
