// The entry points of splat: stages in order.
#pragma once
#include "binning.h"
#include "composite.h"
#include "kernels.h"
#include "project.h"

namespace av {
inline namespace AV_NS {

AV_INLINE Size scene_size(const AvScene& scene, int64_t capacity, int threads) {
    return make_size(scene.N, scene.C, scene.width, scene.height, capacity, threads);
}

AV_INLINE Saved scene_saved(const AvScene& scene, const Size& size, const void* base) {
    return saved_layout(size, const_cast<void*>(base), scene.flags & AV_FOR_GRADIENTS);
}

static int32_t splat_sizes(const AvScene* scene, int64_t capacity, int32_t threads, int64_t* saved, int64_t* scratch) {
    const Size size = scene_size(*scene, capacity, threads);
    *saved = scene_saved(*scene, size, nullptr).bytes;
    const int64_t forward = forward_layout(size, nullptr).bytes, backward = backward_bytes(size);
    *scratch = forward > backward ? forward : backward;
    return AV_OK;
}

// Prefix sums over the blocks' slots; false when the workspaces are too small.
static bool reserve_slots(const Size& size, BlockCount* counts, int32_t* counters) {
    int64_t total = 0;
    for (int64_t i = 0; i < size.C * size.blocks; ++i) {
        const int64_t count = counts[i].slots;
        counts[i].slots = total;
        total += count;
    }
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
                const Slots& slots = saved.slots[c * size.N + n];
                for (uint32_t i = 0; i < slots.count; ++i) total += slot_weight[slots.first + i];
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
    for (int64_t c = 0; c < size.C; ++c) counters[2] += scratch.drawn[c];
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
    const int threads = args->launch.threads;
    const Size size = scene_size(scene, args->capacity, threads);
    const Saved saved = scene_saved(scene, size, args->saved);
    const ForwardScratch scratch = forward_layout(size, args->scratch);
    parallel_for(threads, size.C * size.blocks, [&](int64_t task, int) {
        const int64_t c = task / size.blocks, at = c * size.N;
        scratch.counts[task] = project_block(scene, scene_camera(scene, c), size, task % size.blocks, saved.records + at,
                                             scratch.keys + at, saved.slots + at,
                                             saved.shades ? saved.shades + c * shade_groups(size) : nullptr,
                                             args->radii ? args->radii + 2 * at : nullptr);
    });
    if (!reserve_slots(size, scratch.counts, args->counters)) return AV_OVERFLOW;
    const Pixels images = {scene.backgrounds, args->color, args->alpha, args->depth, nullptr, nullptr, nullptr};
    return composite(size, saved, scratch, images, threads, args->contributions, args->counters);
}

template <bool kWeights>
static void composite_backward_of(const Size& size, const Saved& saved, const Pixels& images, int threads, Slot* slots) {
    parallel_for(threads, size.C * size.tiles, [&](int64_t index, int) {
        if (images.v_depth)
            composite_tile_backward<true, true, kWeights>(size, saved, images, index, slots);
        else if (images.v_alpha)
            composite_tile_backward<true, false, kWeights>(size, saved, images, index, slots);
        else
            composite_tile_backward<false, false, kWeights>(size, saved, images, index, slots);
    });
}

static void composite_backward(const Size& size, const Saved& saved, const Pixels& images, bool weights, int threads, Slot* slots) {
    if (weights)
        composite_backward_of<true>(size, saved, images, threads, slots);
    else
        composite_backward_of<false>(size, saved, images, threads, slots);
}

// Sums the slots of sixteen Gaussians of one camera: rows[0..11] as the fields of a Slot. Returns the lanes that have any.
AV_INLINE M16 gather_slots(const Slots* of, const Slot* slots, int count, F16* rows) {
    uint32_t any = 0;
    for (int l = 0; l < 16; ++l) {
        const uint32_t used = l < count ? of[l].count : 0;
        const float* slot = (const float*)(slots + (used ? of[l].first : 0));
        F16 total = F16(0.0f);
        for (uint32_t i = 0; i < used; ++i) total += load(slot + 16 * i);
        rows[l] = total;
        any |= (uint32_t)(used > 0) << l;
    }
    transpose(rows);
    return mask_from_bits(any);
}

// From those sums to gradients of the projection.
AV_INLINE LanesGradient from_sums(const F16* rows, F16 xx, F16 xy, F16 yy) {
    LanesGradient g;
    const F16 half = F16(-0.5f);
    g.log_opacity = rows[0];
    g.u = xx * rows[1] + xy * rows[2];
    g.v = xy * rows[1] + yy * rows[2];
    g.a = half * rows[3], g.b = -rows[4], g.c = half * rows[5];
    for (int i = 0; i < 3; ++i) g.color[i] = rows[6 + i];
    g.z = rows[9];
    return g;
}

// `on`: the lanes that the camera sees, s their shapes; weight: Σ alpha·transmittance.
AV_INLINE void add_statistics(const AvSplatBackward& args, const Size& size, const Params& p, const Shape<F16>& s, M16 on,
                              const LanesGradient& g, F16 weight, int64_t n, int count) {
    const auto add = [&](float* sums, F16 what) { store_part(sums + n, load_part(sums + n, count) + keep(on, what), count); };
    if (args.contributions) add(args.contributions, weight);
    if (args.count) add(args.count, F16(1.0f));
    if (args.grad_norm) {
        const F16 u = g.u * F16(0.5f * (float)size.width), v = g.v * F16(0.5f * (float)size.height);
        add(args.grad_norm, sqrt_(u * u + v * v));
    }
    if (args.max_radius) {
        const F16 extent2 = extent_squared(log2_(select(on, p.opacity * s.compensation, F16(1.0f))));
        const F16 radius = ceil_(sqrt_(extent2 * max_(s.a, s.c)));
        store_part(args.max_radius + n, max_(load_part(args.max_radius + n, count), keep(on, radius)), count);
    }
}

// Gradients to cameras, summed over blocks of Gaussians in [C, blocks, AV_CAMERA_SUMS], then over all: the same order on any number of
// threads.
AV_INLINE float* block_camera_sums(float* sums, const Size& size, int64_t c, int64_t block) {
    return sums ? sums + (c * size.blocks + block) * AV_CAMERA_SUMS : nullptr;
}

static void clear_camera_sums(float* sums, const Size& size, int64_t block) {
    for (int64_t c = 0; sums && c < size.C; ++c) memset(block_camera_sums(sums, size, c, block), 0, AV_CAMERA_SUMS * sizeof(float));
}

struct CameraGradients {  // or no sums, when nobody asks
    float *sums, *v_viewmats, *v_Ks;
};

static void store_camera_gradients(const CameraGradients& cameras, const Size& size) {
    for (int64_t c = 0; cameras.sums && c < size.C; ++c) {
        double total[AV_CAMERA_SUMS] = {0};
        for (int64_t block = 0; block < size.blocks; ++block)
            for (int i = 0; i < AV_CAMERA_SUMS; ++i) total[i] += (double)cameras.sums[(c * size.blocks + block) * AV_CAMERA_SUMS + i];
        camera_gradient(total, cameras.v_viewmats + 16 * c, cameras.v_Ks + 9 * c);
    }
}

// What one camera says about sixteen Gaussians.
struct Found {
    Shape<F16> shape;
    F16 along[9];  // as in Shade
    LanesGradient g;
    M16 seen;
};

// Sums the gradients of all Gaussians over the cameras and undoes the activations. find(c, cam, n, count, params, found) fills what camera c says
// about the Gaussians [n, n + count), or returns false when that is nothing.
template <class Find>
AV_INLINE void gaussians_backward(const AvScene& scene, const Size& size, int threads, const GradientOut& out, const CameraGradients& cameras,
                                  Find&& find) {
    parallel_for(threads, size.blocks, [&](int64_t block, int) {
        clear_camera_sums(cameras.sums, size, block);
        const int64_t end = (block + 1) * BLOCK < size.N ? (block + 1) * BLOCK : size.N;
        for (int64_t n = block * BLOCK; n < end; n += 16) {
            const int count = end - n < 16 ? (int)(end - n) : 16;
            const Params params = load_params(scene, n, count);
            ParamsGradient total = no_gradient();
            bool unseen = true;
            for (int64_t c = 0; c < size.C; ++c) {
                Found f;
                const Camera cam = scene_camera(scene, c);
                if (!find(c, cam, n, count, params, f)) continue;
                if (cameras.sums)
                    lanes_backward<true>(scene, cam, params, f.shape, f.along, n, count, f.seen, f.g, out, unseen, total,
                                         block_camera_sums(cameras.sums, size, c, block));
                else
                    lanes_backward<false>(scene, cam, params, f.shape, f.along, n, count, f.seen, f.g, out, unseen, total, nullptr);
                unseen = false;
            }
            store_gradient(scene, params, total, n, count, unseen, out);
        }
        if (out.past_cache) fence();
    });
    store_camera_gradients(cameras, size);
}

static int32_t splat_backward(const AvSplatBackward* args) {
    const AvScene& scene = args->scene;
    const int threads = args->launch.threads;
    const Size size = scene_size(scene, args->capacity, threads);
    const Saved saved = scene_saved(scene, size, args->saved);
    Slot* slots = (Slot*)args->scratch;
    const Pixels images = {scene.backgrounds, const_cast<float*>(args->color), const_cast<float*>(args->alpha),
                           const_cast<float*>(args->depth), args->v_color, args->v_alpha, args->v_depth};
    composite_backward(size, saved, images, args->contributions != nullptr, threads, slots);
    const GradientOut out = gradient_out(scene, args->v_means, args->v_quats, args->v_scales, args->v_opacities, args->v_sh);
    const CameraGradients cameras = {args->camera_sums, args->v_viewmats, args->v_Ks};
    const bool statistics = args->grad_norm || args->count || args->max_radius || args->contributions;
    const bool antialiased = scene.flags & AV_ANTIALIASED;
    gaussians_backward(scene, size, threads, out, cameras, [&](int64_t c, const Camera& cam, int64_t n, int count, const Params& p, Found& f) {
        const Shade& shade = saved.shades[c * shade_groups(size) + n / 16];
        if (!shade.visible) return false;
        F16 rows[16];
        f.seen = gather_slots(saved.slots + c * size.N + n, slots, count, rows);
        const Shape<F16>& s = f.shape;
        project_shape(cam, p.mean, p.quat, p.scale, antialiased, f.shape);
        const F16 inv_det = F16(1.0f) / s.det;
        f.g = from_sums(rows, s.c * inv_det, -(s.b * inv_det), s.a * inv_det);
        if (statistics) add_statistics(*args, size, p, s, mask_from_bits(shade.visible), f.g, rows[10], n, count);
        for (int i = 0; i < 9; ++i) f.along[i] = load(shade.along[i]);
        for (int i = 0; i < 3; ++i) f.g.color[i] = keep(f.seen & mask_from_bits(shade.free[i]), f.g.color[i]);
        return bits(f.seen) != 0;
    });
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
