// Projection of blocks of Gaussians, sixteen at a time, and its gradient.
#pragma once
#include "splat.h"

namespace av {
inline namespace AV_NS {

// Sixteen Gaussians in one camera, before packing.
struct Lanes {
    Shape<F16> shape;
    F16 opacity, log2_opacity;  // activated and compensated
    F16 color[3];
    F16 direction[3], inv_distance;
    F16 extent2, extent_x, extent_y;
    M16 visible;
};

struct Params {
    F16 mean[3], quat[4], scale[3], opacity, raw_opacity;
    M16 finite;
};

template <int S>
AV_INLINE M16 all_finite(const F16* rows) {
    F16 total = rows[0] * F16(0.0f);
    for (int i = 1; i < S; ++i) total = fma_(rows[i], F16(0.0f), total);
    return total == F16(0.0f);
}

// Reads Gaussians [n, n + count) and applies the activations; lanes beyond `count` repeat the first.
AV_OUTLINE Params load_params(const AvScene& scene, int64_t n, int count) {
    Params p;
    load_rows<3>(scene.means + 3 * n, count, p.mean);
    load_rows<4>(scene.quats + 4 * n, count, p.quat);
    load_rows<3>(scene.scales + 3 * n, count, p.scale);
    load_rows<1>(scene.opacities + n, count, &p.raw_opacity);
    p.finite = all_finite<3>(p.mean) & all_finite<4>(p.quat) & all_finite<3>(p.scale) & all_finite<1>(&p.raw_opacity);
    p.opacity = p.raw_opacity;
    if (scene.flags & AV_LOG_SCALES)
        for (int i = 0; i < 3; ++i) p.scale[i] = exp_(p.scale[i]);
    if (scene.flags & AV_LOGIT_OPACITIES) p.opacity = F16(1.0f) / (F16(1.0f) + exp_(-p.raw_opacity));
    const F16 squared = p.quat[0] * p.quat[0] + p.quat[1] * p.quat[1] + p.quat[2] * p.quat[2] + p.quat[3] * p.quat[3];
    p.finite = p.finite & (squared > F16(1e-30f));
    return p;
}

// along[3i + j] = ∂colour[i]/∂mean[j], 0 where colour i is not free.
AV_INLINE void colors_along_mean(int degree, const F16* sh, const F16* direction, F16 inv_distance, const M16* free, F16* along) {
    F16 v[9];
    for (int i = 0; i < 9; ++i) v[i] = along[i] = F16(0.0f);
    sh_slopes(degree, direction[0], direction[1], direction[2], [&](int k, int axis, F16 slope) __attribute__((always_inline)) {
        for (int i = 0; i < 3; ++i) v[3 * i + axis] = fma_(slope, sh[3 * k + i], v[3 * i + axis]);
    });
    for (int i = 0; i < 3; ++i) {
        view_direction_backward(direction, inv_distance, v + 3 * i, along + 3 * i);
        for (int j = 0; j < 3; ++j) along[3 * i + j] = keep(free[i], along[3 * i + j]);
    }
}

// Asks for the coefficients of the sixteen Gaussians after these, a quarter of the lines at a time, between other work: a core waits when
// it has asked for more than a dozen or two. Beyond the end it does nothing.
AV_INLINE void prefetch_sh(const AvScene& scene, int64_t n, int quarter) {
    const int lines = 3 * scene.sh_bases;
    const char* next = (const char*)(scene.sh + lines * (n + 16));
    for (int i = lines * quarter / 4; i < lines * (quarter + 1) / 4; ++i) __builtin_prefetch(next + 64 * i);
}

template <int K>
AV_OUTLINE void lanes_color(const AvScene& scene, int64_t n, int count, Lanes& out, Shade* shade) {
    F16 Y[16], sh[3 * K];
    sh_basis(scene.sh_degree, out.direction[0], out.direction[1], out.direction[2], Y);
    load_rows<3 * K>(scene.sh + 3 * K * n, count, sh);
    prefetch_sh(scene, n, 2);
    out.visible = out.visible & all_finite<3 * K>(sh);
    const int bases = (scene.sh_degree + 1) * (scene.sh_degree + 1);
    for (int i = 0; i < 3; ++i) out.color[i] = F16(0.5f);
    for (int k = 0; k < bases; ++k)
        for (int i = 0; i < 3; ++i) out.color[i] = fma_(Y[k], sh[3 * k + i], out.color[i]);
    for (int i = 0; i < 3; ++i) {
        out.visible = out.visible & (abs_(out.color[i]) < F16(AV_COLOR_MAX));
        out.color[i] = max_(out.color[i], F16(0.0f));
    }
    if (!shade) return;
    M16 free[3];
    F16 along[9];
    for (int i = 0; i < 3; ++i) {
        free[i] = out.visible & (out.color[i] > F16(0.0f));
        shade->free[i] = (uint16_t)bits(free[i]);
    }
    colors_along_mean(scene.sh_degree, sh, out.direction, out.inv_distance, free, along);
    for (int i = 0; i < 9; ++i) store(shade->along[i], along[i]);
}

// shade: or NULL; left alone where nothing is visible.
AV_OUTLINE Lanes project_lanes(const AvScene& scene, const Camera& cam, const Params& p, int64_t n, int count, Shade* shade) {
    Lanes out;
    const bool antialiased = scene.flags & AV_ANTIALIASED;
    project_shape(cam, p.mean, p.quat, p.scale, antialiased, out.shape);
    const Shape<F16>& s = out.shape;
    out.visible = s.visible & p.finite & mask_from_bits((1u << count) - 1);
    out.opacity = p.opacity * s.compensation;
    out.visible = out.visible & (out.opacity >= F16(AV_ALPHA_MIN));
    out.log2_opacity = log2_(select(out.visible, out.opacity, F16(1.0f)));
    out.extent2 = extent_squared(out.log2_opacity);
    out.extent_x = sqrt_(out.extent2 * s.a);
    out.extent_y = sqrt_(out.extent2 * s.c);
    out.visible = out.visible & (s.u + out.extent_x > F16(0.0f)) & (s.u - out.extent_x < F16(cam.width)) &
                  (s.v + out.extent_y > F16(0.0f)) & (s.v - out.extent_y < F16(cam.height));
    if (!bits(out.visible)) return out;
    out.inv_distance = view_direction(cam, p.mean, out.direction);
    switch (scene.sh_bases) {
        case 1: lanes_color<1>(scene, n, count, out, shade); break;
        case 4: lanes_color<4>(scene, n, count, out, shade); break;
        case 9: lanes_color<9>(scene, n, count, out, shade); break;
        default: lanes_color<16>(scene, n, count, out, shade); break;
    }
    return out;
}

AV_INLINE Camera scene_camera(const AvScene& scene, int64_t c) {
    return make_camera(scene.viewmats + 16 * c, scene.Ks + 9 * c, scene.width, scene.height, scene.near_plane, scene.eps2d);
}

// Tiles [x0, x1) × [y0, y1) that the box touches: those that hold a pixel centre inside it. 0 where none.
struct Tiles {
    F16 x0, y0, x1, y1, count;
};

AV_INLINE Tiles touched_tiles(const Size& size, M16 visible, F16 u, F16 v, F16 extent_x, F16 extent_y) {
    const F16 zero = F16(0.0f), half = F16(0.5f), tile = F16(1.0f / AV_TILE), one = F16(1.0f);
    const F16 px0 = ceil_(max_(u - extent_x - half, zero)), px1 = floor_(min_(u + extent_x - half, F16((float)(size.width - 1))));
    const F16 py0 = ceil_(max_(v - extent_y - half, zero)), py1 = floor_(min_(v + extent_y - half, F16((float)(size.height - 1))));
    const M16 on = visible & (px0 <= px1) & (py0 <= py1);
    Tiles t;
    t.x0 = keep(on, floor_(px0 * tile)), t.x1 = keep(on, floor_(px1 * tile) + one);
    t.y0 = keep(on, floor_(py0 * tile)), t.y1 = keep(on, floor_(py1 * tile) + one);
    t.count = (t.x1 - t.x0) * (t.y1 - t.y0);
    return t;
}

// What projecting a block leaves besides arrays.
struct BlockTally {
    int64_t slots;
    int32_t drawn;
    F16 nearest, farthest;  // depths of what is drawn

    AV_INLINE BlockTally() : slots(0), drawn(0), nearest(3.402823466e38f), farthest(0.0f) {}

    AV_INLINE BlockCount count() const {
        alignas(64) uint32_t low[16], high[16];
        store((float*)low, nearest), store((float*)high, farthest);
        BlockCount out = {slots, drawn, low[0], high[0]};
        for (int l = 1; l < 16; ++l) {
            out.low = low[l] < out.low ? low[l] : out.low;  // positive floats are ordered like their bits
            out.high = high[l] > out.high ? high[l] : out.high;
        }
        return out;
    }
};

// Writes sixteen records, their sorting keys (depth as bits, all ones when nothing is to be drawn) and the first slot of each, counted
// from the start of the block. rows[0..10] hold the fields from u to extent2, 0 in lanes that are not visible.
AV_INLINE void store_records(F16* rows, const Tiles& tiles, int count, BlockTally& tally, Record* records, uint32_t* keys, Slots* slots) {
    alignas(64) static const uint32_t nothing[16] = {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u};
    alignas(64) uint32_t wanted[16];
    const M16 drawn = tiles.count > F16(0.0f);
    const F16 z = rows[9];
    store((float*)wanted, integer_bits(tiles.count));
    for (int l = 0; l < count; ++l) slots[l] = {(uint32_t)tally.slots, 0}, tally.slots += wanted[l];
    tally.drawn += __builtin_popcount(bits(drawn));
    tally.nearest = select(drawn, min_(z, tally.nearest), tally.nearest);
    tally.farthest = max_(keep(drawn, z), tally.farthest);
    store_part((float*)keys, select(drawn, z, load((const float*)nothing)), count);
    rows[11] = pair_bits(tiles.x0, tiles.y0), rows[12] = pair_bits(tiles.x1, tiles.y1);
    rows[13] = keep(drawn, F16(0.5f) * rows[3] / rows[2]), rows[14] = keep(drawn, F16(0.5f) * rows[3] / rows[4]);
    rows[15] = F16(0.0f);
    transpose(rows);
    for (int l = 0; l < count; ++l) store((float*)(records + l), rows[l]);
}

// Projects one block of Gaussians into one camera. shades: of all blocks, or NULL.
static BlockCount project_block(const AvScene& scene, const Camera& cam, const Size& size, int64_t block, Record* records,
                                uint32_t* keys, Slots* slots, Shade* shades, int32_t* radii) {
    BlockTally tally;
    const int64_t end = (block + 1) * BLOCK < size.N ? (block + 1) * BLOCK : size.N;
    for (int64_t n = block * BLOCK; n < end; n += 16) {
        const int count = end - n < 16 ? (int)(end - n) : 16;
        Shade* const shade = shades ? shades + n / 16 : nullptr;
        prefetch_sh(scene, n, 0);
        const Params p = load_params(scene, n, count);
        prefetch_sh(scene, n, 1);
        const Lanes lanes = project_lanes(scene, cam, p, n, count, shade);
        prefetch_sh(scene, n, 3);
        const M16 on = lanes.visible;
        if (shade) shade->visible = (uint16_t)bits(on);
        const Shape<F16>& s = lanes.shape;
        const F16 inv_det = F16(1.0f) / s.det;
        const F16 fields[11] = {s.u, s.v, F16(-kHalfLog2e) * s.c * inv_det, F16(2.0f * kHalfLog2e) * s.b * inv_det,
                                F16(-kHalfLog2e) * s.a * inv_det, lanes.log2_opacity, lanes.color[0], lanes.color[1],
                                lanes.color[2], s.z, lanes.extent2};
        F16 rows[16];
        for (int i = 0; i < 11; ++i) rows[i] = keep(on, fields[i]);
        const Tiles tiles = touched_tiles(size, on, s.u, s.v, lanes.extent_x, lanes.extent_y);
        store_records(rows, tiles, count, tally, records + n, keys + n, slots + n);
        if (radii) {
            const F16 most = F16(1073741824.0f);
            const F16 r[2] = {integer_bits(ceil_(min_(keep(on, lanes.extent_x), most))),
                              integer_bits(ceil_(min_(keep(on, lanes.extent_y), most)))};
            store_rows<2>((float*)(radii + 2 * n), count, r);
        }
    }
    return tally.count();
}

// Gradients of one camera's projection of sixteen Gaussians, summed over cameras by the caller.
struct LanesGradient {
    F16 u, v, a, b, c;  // to the mean in pixels and to the conic
    F16 log_opacity;    // to the logarithm of the compensated opacity
    F16 color[3], z;    // to the colour before it was clamped at zero
};

struct ParamsGradient {
    F16 mean[3], quat[4], scale[3], log_opacity;
};

AV_INLINE ParamsGradient no_gradient() {
    ParamsGradient g;
    const F16 zero = F16(0.0f);
    for (int i = 0; i < 3; ++i) g.mean[i] = g.scale[i] = zero;
    for (int i = 0; i < 4; ++i) g.quat[i] = zero;
    g.log_opacity = zero;
    return g;
}

// Where the gradients of a backward pass go: [N, ...] each.
struct GradientOut {
    float *means, *quats, *scales, *opacities, *sh;  // sh: or NULL
    bool past_cache;  // those to SH are too many for the caches, so they go to memory without being read first
};

AV_INLINE GradientOut gradient_out(const AvScene& scene, float* means, float* quats, float* scales, float* opacities, float* sh) {
    const int64_t bytes = scene.N * scene.sh_bases * 12;
    return {means, quats, scales, opacities, sh, scene.C == 1 && bytes > (8 << 20) && (uintptr_t)sh % 64 == 0};
}

// out[l, k, i] = Y[k][l] · c[i][l] for the first `count` lanes, or added to it. The outer product is formed row by row in memory
// order: with K = 16 that is half the shuffles of forming 48 vectors and transposing them.
template <int K>
AV_INLINE void store_outer(float* out, int count, const F16* Y, const F16* c, bool add, [[maybe_unused]] bool past_cache) {
    alignas(64) float y[16 * 16 + 16], color[16 * 4];  // the last row is read beyond its end
    F16 rows[16];
    for (int k = 0; k < 16; ++k) rows[k] = k < K ? Y[k] : F16(0.0f);
    transpose(rows);
    for (int l = 0; l < 16; ++l) store(y + 16 * l, rows[l]);
    const F16 four[4] = {c[0], c[1], c[2], c[0]};
    store_rows<4>(color, 16, four);
#if AV_ISA >= 256
    if (K == 16) {
        enum { V = AV_NATIVE };
        alignas(64) static const int32_t third[48] = {0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5,  // element / 3
                                                      5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8, 9, 9, 9, 10, 10,
                                                      10, 11, 11, 11, 12, 12, 12, 13, 13, 13, 14, 14, 14, 15, 15, 15};
        alignas(64) static const int32_t rest[48] = {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0,  // element % 3
                                                     1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1,
                                                     2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2};
        for (int l = 0; l < count; ++l) {
            float* to = out + 48 * l;
            const NativeF mine = repeat_four(color + 4 * l);
            for (int s = 0; s < 48; s += V) {
                const NativeI from = load_native(third + s) - s / 3;
                NativeF product = permute(load_native(y + 16 * l + s / 3), from) * permute(mine, load_native(rest + s));
                if (add) product += load_native(to + s);
                if (past_cache)
                    store_past_cache(to + s, product);
                else
                    memcpy(to + s, &product, sizeof product);
            }
        }
        return;
    }
#endif
    for (int l = 0; l < count; ++l)
        for (int k = 0; k < K; ++k)
            for (int i = 0; i < 3; ++i) {
                const float product = y[16 * l + k] * color[4 * l + i];
                float& to = out[(l * K + k) * 3 + i];
                to = add ? to + product : product;
            }
}

template <int K>
AV_OUTLINE void coefficients_backward(const AvScene& scene, int64_t n, int count, const F16* direction, const F16* v_color,
                                      const GradientOut& out, bool add) {
    F16 Y[16];
    for (int k = 0; k < K; ++k) Y[k] = F16(0.0f);  // beyond the degree nothing moves
    sh_basis(scene.sh_degree, direction[0], direction[1], direction[2], Y);
    store_outer<K>(out.sh + 3 * K * n, count, Y, v_color, add, out.past_cache);
}

// Adds the gradient of one camera; `visible` lanes only. s: their shapes in it; along: ∂colour[i]/∂mean[j] as in Shade. `first`:
// nothing has been written to out.sh yet.
template <bool kCamera>
AV_OUTLINE void lanes_backward(const AvScene& scene, const Camera& cam, const Params& p, const Shape<F16>& s, const F16* along, int64_t n,
                               int count, M16 visible, const LanesGradient& g, const GradientOut& out, bool first,
                               ParamsGradient& total, float* camera_sums) {
    const bool antialiased = scene.flags & AV_ANTIALIASED;
    F16 v_mean[3] = {F16(0.0f), F16(0.0f), F16(0.0f)}, v_quat[4], v_scale[3];
    const F16 v_comp = antialiased ? g.log_opacity / s.compensation : F16(0.0f);
    F16 v_camera[AV_CAMERA_SUMS];
    for (int i = 0; i < AV_CAMERA_SUMS; ++i) v_camera[i] = F16(0.0f);
    project_shape_backward(cam, p.mean, p.quat, p.scale, antialiased, s, g.u, g.v, g.z, g.a, g.b, g.c, v_comp, v_mean, v_quat, v_scale,
                           kCamera ? v_camera : nullptr);
    if (kCamera) {
        F16 seen_from[3] = {F16(0.0f), F16(0.0f), F16(0.0f)};
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 3; ++j) seen_from[j] = fma_(along[3 * i + j], g.color[i], seen_from[j]);
        view_point_backward(cam, seen_from, v_camera);
        for (int i = 0; i < AV_CAMERA_SUMS; ++i) camera_sums[i] += sum(keep(visible, v_camera[i]));
    }
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) v_mean[j] = fma_(along[3 * i + j], g.color[i], v_mean[j]);
    if (out.sh) {
        F16 direction[3];
        view_direction(cam, p.mean, direction);
        for (int i = 0; i < 3; ++i) direction[i] = keep(visible, direction[i]);  // a culled mean may be anything
        switch (scene.sh_bases) {
            case 1: coefficients_backward<1>(scene, n, count, direction, g.color, out, !first); break;
            case 4: coefficients_backward<4>(scene, n, count, direction, g.color, out, !first); break;
            case 9: coefficients_backward<9>(scene, n, count, direction, g.color, out, !first); break;
            default: coefficients_backward<16>(scene, n, count, direction, g.color, out, !first); break;
        }
    }
    for (int i = 0; i < 3; ++i) total.mean[i] += keep(visible, v_mean[i]);
    for (int i = 0; i < 4; ++i) total.quat[i] += keep(visible, v_quat[i]);
    for (int i = 0; i < 3; ++i) total.scale[i] += keep(visible, v_scale[i]);
    total.log_opacity += keep(visible, g.log_opacity);
}

// Undoes the activations and writes sixteen Gaussians' gradients; those to SH were written camera by camera, unless no camera
// saw any of the sixteen (`unseen`).
AV_OUTLINE void store_gradient(const AvScene& scene, const Params& p, ParamsGradient& g, int64_t n, int count, bool unseen,
                               const GradientOut& out) {
    F16 v_opacity = g.log_opacity / p.opacity;  // ∂ln(o)/∂o
    if (scene.flags & AV_LOGIT_OPACITIES) v_opacity = g.log_opacity * (F16(1.0f) - p.opacity);
    v_opacity = select(g.log_opacity == F16(0.0f), F16(0.0f), v_opacity);  // culled lanes may have an opacity of zero
    if (scene.flags & AV_LOG_SCALES)
        for (int i = 0; i < 3; ++i) g.scale[i] = select(g.scale[i] == F16(0.0f), F16(0.0f), g.scale[i] * p.scale[i]);
    store_rows<3>(out.means + 3 * n, count, g.mean);
    store_rows<4>(out.quats + 4 * n, count, g.quat);
    store_rows<3>(out.scales + 3 * n, count, g.scale);
    store_rows<1>(out.opacities + n, count, &v_opacity);
    if (out.sh && unseen) memset(out.sh + 3 * scene.sh_bases * n, 0, (size_t)(3 * scene.sh_bases * count) * sizeof(float));
}

}  // namespace AV_NS
}  // namespace av
