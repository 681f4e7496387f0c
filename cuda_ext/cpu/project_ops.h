// The entry points of the splat's halves as separate operators: project, and rasterize what somebody projected.
#pragma once
#include "splat_ops.h"

namespace av {
inline namespace AV_NS {

static int32_t project_forward(const AvProject* args) {
    const AvScene& scene = args->scene;
    const AvProjected& out = args->out;
    const Size size = scene_size(scene, 0, args->launch.threads);
    parallel_for(args->launch.threads, size.C * size.blocks, [&](int64_t task, int) {
        const int64_t c = task / size.blocks, block = task % size.blocks;
        const Camera cam = scene_camera(scene, c);
        const int64_t end = (block + 1) * BLOCK < size.N ? (block + 1) * BLOCK : size.N;
        for (int64_t n = block * BLOCK; n < end; n += 16) {
            const int count = end - n < 16 ? (int)(end - n) : 16;
            const Params p = load_params(scene, n, count);
            const Lanes lanes = project_lanes(scene, cam, p, n, count, nullptr);
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

// ∂colour[i]/∂mean[j] of sixteen Gaussians, as in Shade.
template <int K>
AV_OUTLINE void colors_along_means(const AvScene& scene, const Camera& cam, const Params& p, int64_t n, int count, const M16* free,
                                   F16* along) {
    F16 direction[3], sh[3 * K];
    const F16 inv_distance = view_direction(cam, p.mean, direction);
    load_rows<3 * K>(scene.sh + 3 * K * n, count, sh);
    colors_along_mean(scene.sh_degree, sh, direction, inv_distance, free, along);
}

static int32_t project_backward(const AvProjectBackward* args) {
    const AvScene& scene = args->scene;
    const AvProjected& v = args->v_out;
    const GradientOut out = gradient_out(scene, args->v_means, args->v_quats, args->v_scales, args->v_opacities, args->v_sh);
    const CameraGradients cameras = {args->camera_sums, args->v_viewmats, args->v_Ks};
    const Size size = scene_size(scene, 0, args->launch.threads);
    const bool antialiased = scene.flags & AV_ANTIALIASED;
    gaussians_backward(scene, size, args->launch.threads, out, cameras, [&](int64_t c, const Camera& cam, int64_t n, int count, const Params& p, Found& f) {
        const int64_t at = c * size.N + n;
        uint32_t visible = 0;
        for (int l = 0; l < count; ++l) visible |= (uint32_t)(args->out.radii[2 * (at + l)] > 0) << l;
        if (!visible) return false;
        f.seen = mask_from_bits(visible);
        F16 uv[2], conic[3], color[3], v_opacity, opacity;
        M16 free[3];
        LanesGradient& g = f.g;
        load_rows<2>(v.means2d + 2 * at, count, uv);
        load_rows<3>(v.conics + 3 * at, count, conic);
        load_rows<3>(v.colors + 3 * at, count, g.color);
        load_rows<1>(v.depths + at, count, &g.z);
        load_rows<1>(v.opacities + at, count, &v_opacity);
        load_rows<1>(args->out.opacities + at, count, &opacity);
        load_rows<3>(args->out.colors + 3 * at, count, color);
        g.u = uv[0], g.v = uv[1], g.a = conic[0], g.b = conic[1], g.c = conic[2];
        g.log_opacity = v_opacity * opacity;
        for (int i = 0; i < 3; ++i) {
            free[i] = f.seen & (color[i] > F16(0.0f));
            g.color[i] = keep(free[i], g.color[i]);
        }
        switch (scene.sh_bases) {
            case 1: colors_along_means<1>(scene, cam, p, n, count, free, f.along); break;
            case 4: colors_along_means<4>(scene, cam, p, n, count, free, f.along); break;
            case 9: colors_along_means<9>(scene, cam, p, n, count, free, f.along); break;
            default: colors_along_means<16>(scene, cam, p, n, count, free, f.along); break;
        }
        project_shape(cam, p.mean, p.quat, p.scale, antialiased, f.shape);
        return true;
    });
    return AV_OK;
}

// Records of Gaussians that somebody else projected.
static BlockCount pack_block(const AvProjected& in, const Size& size, int64_t c, int64_t block, Record* records, uint32_t* keys,
                             Slots* slots) {
    BlockTally tally;
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
        store_records(rows, tiles, count, tally, records + at, keys + at, slots + at);
    }
    return tally.count();
}

static int32_t rasterize_forward(const AvRasterize* args) {
    const int threads = args->launch.threads;
    const Size size = make_size(args->N, args->C, args->width, args->height, args->capacity, threads);
    const Saved saved = saved_layout(size, args->saved, false);
    const ForwardScratch scratch = forward_layout(size, args->scratch);
    parallel_for(threads, size.C * size.blocks, [&](int64_t task, int) {
        scratch.counts[task] = pack_block(args->in, size, task / size.blocks, task % size.blocks, saved.records, scratch.keys, saved.slots);
    });
    if (!reserve_slots(size, scratch.counts, args->counters)) return AV_OVERFLOW;
    const Pixels images = {args->backgrounds, args->color, args->alpha, args->depth, nullptr, nullptr, nullptr};
    return composite(size, saved, scratch, images, threads, args->contributions, args->counters);
}

static int32_t rasterize_backward(const AvRasterizeBackward* args) {
    const Size size = make_size(args->N, args->C, args->width, args->height, args->capacity, args->launch.threads);
    const Saved saved = saved_layout(size, const_cast<void*>(args->saved), false);
    Slot* slots = (Slot*)args->scratch;
    const Pixels images = {args->backgrounds, const_cast<float*>(args->color), const_cast<float*>(args->alpha),
                           const_cast<float*>(args->depth), args->v_color, args->v_alpha, args->v_depth};
    composite_backward(size, saved, images, false, args->launch.threads, slots);
    const AvProjected& out = args->v_in;
    parallel_for(args->launch.threads, size.C * size.blocks, [&](int64_t task, int) {
        const int64_t c = task / size.blocks, block = task % size.blocks;
        const int64_t end = (block + 1) * BLOCK < size.N ? (block + 1) * BLOCK : size.N;
        for (int64_t n = block * BLOCK; n < end; n += 16) {
            const int count = end - n < 16 ? (int)(end - n) : 16;
            const int64_t at = c * size.N + n;
            F16 rows[16], forms[3], opacity;
            const M16 on = gather_slots(saved.slots + at, slots, count, rows);
            load_rows<3>(args->in.conics + 3 * at, count, forms);
            load_rows<1>(args->in.opacities + at, count, &opacity);
            const LanesGradient g = from_sums(rows, forms[0], forms[1], forms[2]);
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
