// The entry points of splat, project and rasterize: stages in order.
#pragma once
#include "binning.h"
#include "composite.h"
#include "kernels.h"
#include "project.h"

namespace av {
inline namespace AV_NS {

static int32_t splat_sizes(const AvScene* scene, int64_t capacity, int32_t, int64_t* saved, int64_t* scratch) {
    const Size size = make_size(scene->N, scene->C, scene->width, scene->height, capacity);
    *saved = saved_layout(size, nullptr).bytes;
    const int64_t forward = forward_layout(size, nullptr).bytes, backward = backward_bytes(size);
    *scratch = forward > backward ? forward : backward;
    return AV_OK;
}

// Prefix sums over the blocks' slots; false when the workspaces are too small.
static bool reserve_slots(const Size& size, int64_t* block_first, int32_t* counters) {
    int64_t total = 0;
    for (int64_t i = 0; i < size.C * size.blocks; ++i) {
        const int64_t count = block_first[i];
        block_first[i] = total;
        total += count;
    }
    block_first[size.C * size.blocks] = total;
    counters[0] = (int32_t)(total < 0x7fffffff ? total : 0x7fffffff);
    counters[1] = total > size.capacity;
    return total <= size.capacity;
}

// Sums the slots of each Gaussian into `contributions` [N], over cameras.
static void sum_weights(const Size& size, const Saved& saved, const float* slot_weight, int threads, float* contributions) {
    parallel_for(threads, size.blocks, [&](int64_t block, int) {
        const int64_t end = (block + 1) * BLOCK < size.N ? (block + 1) * BLOCK : size.N;
        for (int64_t n = block * BLOCK; n < end; ++n) {
            float total = 0.0f;
            for (int64_t c = 0; c < size.C; ++c) {
                const Record& r = saved.records[c * size.N + n];
                const int64_t first = saved.block_first[c * size.blocks + block] + r.first;
                for (uint32_t i = 0; i < r.count; ++i) total += slot_weight[first + i];
            }
            contributions[n] = total;
        }
    });
}

static int32_t composite(const Size& size, const Saved& saved, const ForwardScratch& scratch, const Pixels& images, int threads,
                         float* contributions, int32_t* counters) {
    bin_instances(size, saved, scratch, threads);
    counters[2] = 0;
    counters[3] = 0;
    for (int64_t c = 0; c < size.C; ++c) counters[2] += scratch.visible[c];
    parallel_for(threads, size.C * size.tiles, [&](int64_t index, int) {
        if (contributions && images.depth)
            composite_tile<true, true>(size, saved, images, index, scratch.slot_weight);
        else if (contributions)
            composite_tile<false, true>(size, saved, images, index, scratch.slot_weight);
        else if (images.depth)
            composite_tile<true, false>(size, saved, images, index, nullptr);
        else
            composite_tile<false, false>(size, saved, images, index, nullptr);
    });
    if (contributions) sum_weights(size, saved, scratch.slot_weight, threads, contributions);
    return AV_OK;
}

static int32_t splat_forward(const AvSplatForward* args) {
    const AvScene& scene = args->scene;
    const Size size = make_size(scene.N, scene.C, scene.width, scene.height, args->capacity);
    const Saved saved = saved_layout(size, args->saved);
    const ForwardScratch scratch = forward_layout(size, args->scratch);
    const int threads = args->launch.threads;
    parallel_for(threads, size.C * size.blocks, [&](int64_t task, int) {
        const int64_t c = task / size.blocks;
        saved.block_first[task] = project_block(scene, scene_camera(scene, c), size, task % size.blocks,
                                                saved.records + c * size.N, scratch.keys + c * size.N,
                                                args->radii ? args->radii + 2 * c * size.N : nullptr);
    });
    if (!reserve_slots(size, saved.block_first, args->counters)) return AV_OVERFLOW;
    const Pixels images = {scene.backgrounds, args->color, args->alpha, args->depth, nullptr, nullptr, nullptr};
    return composite(size, saved, scratch, images, threads, args->contributions, args->counters);
}

static void composite_backward(const Size& size, const Saved& saved, const Pixels& images, int threads, Slot* slots) {
    const bool extra = images.v_alpha || images.v_depth;
    parallel_for(threads, size.C * size.tiles, [&](int64_t index, int) {
        if (extra)
            composite_tile_backward<true>(size, saved, images, index, slots);
        else
            composite_tile_backward<false>(size, saved, images, index, slots);
    });
}

// Sums the slots of sixteen Gaussians of one camera and turns moments into gradients of the projection. Returns the visible lanes.
AV_INLINE M16 gather_slots(const Size& size, const Saved& saved, const Slot* slots, int64_t c, int64_t n, int count,
                           LanesGradient& g) {
    F16 fields[16], rows[16];
    const int64_t base = saved.block_first[c * size.blocks + n / BLOCK];
    const Record* records = saved.records + c * size.N + n;
    const F16 zero = F16(0.0f);
    uint32_t visible = 0;
    for (int l = 0; l < 16; ++l) {
        const Record& r = records[l < count ? l : 0];
        fields[l] = load((const float*)&r);
        const uint32_t slots_used = l < count ? r.count : 0;
        const float* slot = (const float*)(slots + base + r.first);
        F16 total = zero;
        for (uint32_t i = 0; i < slots_used; ++i) total += load(slot + 16 * i);
        rows[l] = total;
        visible |= (uint32_t)(slots_used > 0) << l;
    }
    transpose(rows);
    transpose(fields);
    const F16 a = fields[2] * F16(-1.0f / kHalfLog2e), b = fields[3] * F16(-0.5f / kHalfLog2e);
    const F16 c_ = fields[4] * F16(-1.0f / kHalfLog2e), half = F16(-0.5f);
    g.log_opacity = rows[0];
    g.u = a * rows[1] + b * rows[2];
    g.v = b * rows[1] + c_ * rows[2];
    g.a = half * rows[3], g.b = -rows[4], g.c = half * rows[5];
    for (int i = 0; i < 3; ++i) {
        g.color[i] = rows[6 + i];
        g.color_free[i] = fields[6 + i] > zero;
    }
    g.z = rows[9];
    g.weight = rows[10];
    return mask_from_bits(visible);
}

static void add_statistics(const Size& size, const Saved& saved, const LanesGradient& g, const AvSplatBackward& args, int64_t c,
                           int64_t n, int count) {
    alignas(64) float norm[16], weight[16];
    store(weight, g.weight);
    const F16 u = g.u * F16(0.5f * (float)size.width), v = g.v * F16(0.5f * (float)size.height);
    store(norm, sqrt_(u * u + v * v));
    for (int l = 0; l < count; ++l) {
        const Record& r = saved.records[c * size.N + n + l];
        if (r.extent2 == 0.0f) continue;  // culled
        if (args.contributions) args.contributions[n + l] += weight[l];
        if (args.grad_norm) args.grad_norm[n + l] += norm[l];
        if (args.count) args.count[n + l] += 1.0f;
        if (args.max_radius) {
            // a and c of the record are those of the inverse covariance: undo that for the larger half-size of the box
            const float a = -r.a / kHalfLog2e, b = -r.b / (2.0f * kHalfLog2e), cc = -r.c / kHalfLog2e;
            const float radius = ceilf(sqrtf(r.extent2 * max_(a, cc) / (a * cc - b * b)));
            args.max_radius[n + l] = max_(args.max_radius[n + l], radius);
        }
    }
}

static int32_t splat_backward(const AvSplatBackward* args) {
    const AvScene& scene = args->scene;
    const Size size = make_size(scene.N, scene.C, scene.width, scene.height, args->capacity);
    const Saved saved = saved_layout(size, const_cast<void*>(args->saved));
    Slot* slots = (Slot*)args->scratch;
    const Pixels images = {scene.backgrounds, const_cast<float*>(args->color), const_cast<float*>(args->alpha),
                           const_cast<float*>(args->depth), args->v_color, args->v_alpha, args->v_depth};
    composite_backward(size, saved, images, args->launch.threads, slots);
    const GradientOut out = gradient_out(scene, args->v_means, args->v_quats, args->v_scales, args->v_opacities, args->v_sh);
    const bool statistics = args->grad_norm || args->count || args->max_radius || args->contributions;
    parallel_for(args->launch.threads, size.blocks, [&](int64_t block, int) {
        const int64_t end = (block + 1) * BLOCK < size.N ? (block + 1) * BLOCK : size.N;
        for (int64_t n = block * BLOCK; n < end; n += 16) {
            const int count = end - n < 16 ? (int)(end - n) : 16;
            const Params params = load_params(scene, n, count);
            ParamsGradient total = no_gradient();
            bool unseen = true;
            for (int64_t c = 0; c < size.C; ++c) {
                LanesGradient g;
                const M16 visible = gather_slots(size, saved, slots, c, n, count, g);
                if (statistics) add_statistics(size, saved, g, *args, c, n, count);
                if (!bits(visible)) continue;
                lanes_backward(scene, scene_camera(scene, c), params, n, count, visible, g, out, unseen, total);
                unseen = false;
            }
            store_gradient(scene, params, total, n, count, unseen, out);
        }
        if (out.past_cache) fence();
    });
    return AV_OK;
}

// ---- project and rasterize as separate operators ----

static int32_t project_forward(const AvProject* args) {
    const AvScene& scene = args->scene;
    const AvProjected& out = args->out;
    const Size size = make_size(scene.N, scene.C, scene.width, scene.height, 0);
    parallel_for(args->launch.threads, size.C * size.blocks, [&](int64_t task, int) {
        const int64_t c = task / size.blocks, block = task % size.blocks;
        const Camera cam = scene_camera(scene, c);
        const int64_t end = (block + 1) * BLOCK < size.N ? (block + 1) * BLOCK : size.N;
        for (int64_t n = block * BLOCK; n < end; n += 16) {
            const int count = end - n < 16 ? (int)(end - n) : 16;
            const Params p = load_params(scene, n, count);
            const Lanes lanes = project_lanes(scene, cam, p, n, count);
            const Shape<F16>& s = lanes.shape;
            const M16 on = lanes.visible;
            const F16 inv_det = F16(1.0f) / s.det;
            const F16 uv[2] = {keep(on, s.u), keep(on, s.v)};
            const F16 conic[3] = {keep(on, s.c * inv_det), keep(on, -(s.b * inv_det)), keep(on, s.a * inv_det)};
            const F16 z = keep(on, s.z), opacity = keep(on, lanes.opacity);
            F16 color[3];
            for (int i = 0; i < 3; ++i) color[i] = keep(on, lanes.color[i]);
            const int64_t at = c * size.N + n;
            store_rows<2>(out.means2d + 2 * at, count, uv);
            store_rows<3>(out.conics + 3 * at, count, conic);
            store_rows<3>(out.colors + 3 * at, count, color);
            store_rows<1>(out.depths + at, count, &z);
            store_rows<1>(out.opacities + at, count, &opacity);
            alignas(64) float ex[16], ey[16];
            store(ex, min_(ceil_(keep(on, lanes.extent_x)), F16(1073741824.0f)));
            store(ey, min_(ceil_(keep(on, lanes.extent_y)), F16(1073741824.0f)));
            for (int l = 0; l < count; ++l) out.radii[2 * (at + l)] = (int32_t)ex[l], out.radii[2 * (at + l) + 1] = (int32_t)ey[l];
        }
    });
    return AV_OK;
}

static int32_t project_backward(const AvProjectBackward* args) {
    const AvScene& scene = args->scene;
    const AvProjected& v = args->v_out;
    const GradientOut out = gradient_out(scene, args->v_means, args->v_quats, args->v_scales, args->v_opacities, args->v_sh);
    const Size size = make_size(scene.N, scene.C, scene.width, scene.height, 0);
    parallel_for(args->launch.threads, size.blocks, [&](int64_t block, int) {
        const int64_t end = (block + 1) * BLOCK < size.N ? (block + 1) * BLOCK : size.N;
        for (int64_t n = block * BLOCK; n < end; n += 16) {
            const int count = end - n < 16 ? (int)(end - n) : 16;
            const Params params = load_params(scene, n, count);
            ParamsGradient total = no_gradient();
            bool unseen = true;
            for (int64_t c = 0; c < size.C; ++c) {
                const int64_t at = c * size.N + n;
                uint32_t visible = 0;
                for (int l = 0; l < count; ++l) visible |= (uint32_t)(args->out.radii[2 * (at + l)] > 0) << l;
                if (!visible) continue;
                F16 uv[2], conic[3], color[3], v_opacity, opacity;
                LanesGradient g;
                load_rows<2>(v.means2d + 2 * at, count, uv);
                load_rows<3>(v.conics + 3 * at, count, conic);
                load_rows<3>(v.colors + 3 * at, count, g.color);
                load_rows<1>(v.depths + at, count, &g.z);
                load_rows<1>(v.opacities + at, count, &v_opacity);
                load_rows<1>(args->out.opacities + at, count, &opacity);
                load_rows<3>(args->out.colors + 3 * at, count, color);
                for (int i = 0; i < 3; ++i) g.color_free[i] = color[i] > F16(0.0f);
                g.u = uv[0], g.v = uv[1], g.a = conic[0], g.b = conic[1], g.c = conic[2];
                g.log_opacity = v_opacity * opacity;
                lanes_backward(scene, scene_camera(scene, c), params, n, count, mask_from_bits(visible), g, out, unseen, total);
                unseen = false;
            }
            store_gradient(scene, params, total, n, count, unseen, out);
        }
        if (out.past_cache) fence();
    });
    return AV_OK;
}

// Records of Gaussians that somebody else projected.
static int64_t pack_block(const AvProjected& in, const Size& size, int64_t c, int64_t block, Record* records, uint32_t* keys) {
    int64_t slots = 0;
    const int64_t end = (block + 1) * BLOCK < size.N ? (block + 1) * BLOCK : size.N;
    const F16 zero = F16(0.0f), far = F16(AV_COORD_MAX), bright = F16(AV_COLOR_MAX);
    for (int64_t n = block * BLOCK; n < end; n += 16) {
        const int count = end - n < 16 ? (int)(end - n) : 16;
        const int64_t at = c * size.N + n;
        F16 uv[2], conic[3], color[3], z, opacity;
        load_rows<2>(in.means2d + 2 * at, count, uv);
        load_rows<3>(in.conics + 3 * at, count, conic);
        load_rows<3>(in.colors + 3 * at, count, color);
        load_rows<1>(in.depths + at, count, &z);
        load_rows<1>(in.opacities + at, count, &opacity);
        uint32_t drawn = 0;
        for (int l = 0; l < count; ++l) drawn |= (uint32_t)(in.radii[2 * (at + l)] > 0) << l;
        const F16 det = conic[0] * conic[2] - conic[1] * conic[1];
        const M16 on = mask_from_bits(drawn) & (abs_(uv[0]) < far) & (abs_(uv[1]) < far) & (abs_(color[0]) < bright) &
                       (abs_(color[1]) < bright) & (abs_(color[2]) < bright) & finite_(z) & (z > zero) & finite_(det) & (det > zero) &
                       (conic[0] > zero) & (conic[2] > zero) & finite_(opacity) & (opacity >= F16(AV_ALPHA_MIN));
        const F16 log2_opacity = log2_(select(on, opacity, F16(1.0f))), extent2 = extent_squared(log2_opacity);
        const F16 fields[11] = {uv[0], uv[1], F16(-kHalfLog2e) * conic[0], F16(-2.0f * kHalfLog2e) * conic[1],
                                F16(-kHalfLog2e) * conic[2], log2_opacity, color[0], color[1], color[2], z, extent2};
        F16 rows[16];
        for (int i = 0; i < 11; ++i) rows[i] = keep(on, fields[i]);
        const Tiles tiles = touched_tiles(size, on, uv[0], uv[1], sqrt_(extent2 * conic[2] / det), sqrt_(extent2 * conic[0] / det));
        slots = store_records(rows, tiles, count, slots, records + at, keys + at);
    }
    return slots;
}

static int32_t rasterize_forward(const AvRasterize* args) {
    const Size size = make_size(args->N, args->C, args->width, args->height, args->capacity);
    const Saved saved = saved_layout(size, args->saved);
    const ForwardScratch scratch = forward_layout(size, args->scratch);
    const int threads = args->launch.threads;
    parallel_for(threads, size.C * size.blocks, [&](int64_t task, int) {
        saved.block_first[task] = pack_block(args->in, size, task / size.blocks, task % size.blocks, saved.records, scratch.keys);
    });
    if (!reserve_slots(size, saved.block_first, args->counters)) return AV_OVERFLOW;
    const Pixels images = {args->backgrounds, args->color, args->alpha, args->depth, nullptr, nullptr, nullptr};
    return composite(size, saved, scratch, images, threads, args->contributions, args->counters);
}

static int32_t rasterize_backward(const AvRasterizeBackward* args) {
    const Size size = make_size(args->N, args->C, args->width, args->height, args->capacity);
    const Saved saved = saved_layout(size, const_cast<void*>(args->saved));
    Slot* slots = (Slot*)args->scratch;
    const Pixels images = {args->backgrounds, const_cast<float*>(args->color), const_cast<float*>(args->alpha),
                           const_cast<float*>(args->depth), args->v_color, args->v_alpha, args->v_depth};
    composite_backward(size, saved, images, args->launch.threads, slots);
    const AvProjected& out = args->v_in;
    parallel_for(args->launch.threads, size.C * size.blocks, [&](int64_t task, int) {
        const int64_t c = task / size.blocks, block = task % size.blocks;
        const int64_t end = (block + 1) * BLOCK < size.N ? (block + 1) * BLOCK : size.N;
        for (int64_t n = block * BLOCK; n < end; n += 16) {
            const int count = end - n < 16 ? (int)(end - n) : 16;
            const int64_t at = c * size.N + n;
            LanesGradient g;
            const M16 on = gather_slots(size, saved, slots, c, n, count, g);
            F16 opacity;
            load_rows<1>(args->in.opacities + at, count, &opacity);
            const F16 uv[2] = {keep(on, g.u), keep(on, g.v)}, conic[3] = {keep(on, g.a), keep(on, g.b), keep(on, g.c)};
            F16 color[3];
            for (int i = 0; i < 3; ++i) color[i] = keep(on, g.color[i]);
            const F16 z = keep(on, g.z), v_opacity = keep(on, g.log_opacity / opacity);
            store_rows<2>(out.means2d + 2 * at, count, uv);
            store_rows<3>(out.conics + 3 * at, count, conic);
            store_rows<3>(out.colors + 3 * at, count, color);
            store_rows<1>(out.depths + at, count, &z);
            store_rows<1>(out.opacities + at, count, &v_opacity);
        }
    });
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
