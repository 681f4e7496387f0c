// Entry points: project + rasterise in one call, and rasterise alone.
#include "splat.cuh"

namespace av {

static int32_t check(const Grid& grid, int64_t capacity) {
    if (capacity < 0 || capacity > 0x7fffffff) return fail(AV_INVALID, "the instance capacity must fit into 31 bits");
    if (grid.C > 65535) return fail(AV_INVALID, "more than 65535 cameras in one call");
    if (grid.N > 0xffffffffll) return fail(AV_INVALID, "more Gaussians than 32 bits can number");
    if (grid.all_tiles() > (1 << 27)) return fail(AV_INVALID, "the images of all cameras together have too many tiles");
    return AV_OK;
}

static int32_t too_small() { return fail(AV_INVALID, "the workspaces are smaller than av_splat_sizes says"); }

// Zeroes what the kernels count in. Without Gaussians no kernel of theirs runs, and their results are zeroed here too.
static void begin_forward(const Grid& grid, const Saved& saved, const ForwardScratch& scratch, int32_t* counters,
                          cudaStream_t stream) {
    clear(scratch.total, scratch.zero_bytes, stream);
    if (grid.N > 0) return;
    clear(saved.class_sizes, CLASSES * sizeof(int), stream);
    clear(counters, 4 * sizeof(int32_t), stream);
}

}  // namespace av

extern "C" {

int32_t av_splat_sizes(const AvScene* scene, int64_t capacity, int32_t, int64_t* saved, int64_t* scratch) {
    using namespace av;
    const Grid grid(scene->N, scene->C, scene->width, scene->height);
    if (const int32_t status = check(grid, capacity)) return status;
    int64_t forward = 0, backward = 0;
    Saved(nullptr, grid, capacity, saved);
    ForwardScratch(nullptr, grid, capacity, &forward);
    BackwardScratch(nullptr, grid, &backward);
    *scratch = forward > backward ? forward : backward;
    return AV_OK;
}

int32_t av_splat_forward(const AvSplatForward* args) {
    using namespace av;
    const AvScene& s = args->scene;
    const Grid grid(s.N, s.C, s.width, s.height);
    if (const int32_t status = check(grid, args->capacity)) return status;
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    int64_t saved_bytes = 0, scratch_bytes = 0;
    const Saved saved(args->saved, grid, args->capacity, &saved_bytes);
    const ForwardScratch scratch(args->scratch, grid, args->capacity, &scratch_bytes);
    if (args->saved_bytes < saved_bytes || args->scratch_bytes < scratch_bytes) return too_small();
    begin_forward(grid, saved, scratch, args->counters, stream);
    launch_project(s, grid, {saved.records, args->radii, args->contributions, saved.class_sizes}, scratch, stream);
    launch_bins(grid, args->capacity, saved, scratch, args->counters, stream);
    launch_raster(grid, saved, {s.backgrounds, args->color, args->alpha, args->depth, args->contributions}, stream);
    return finish("splat");
}

int32_t av_splat_backward(const AvSplatBackward* args) {
    using namespace av;
    const AvScene& s = args->scene;
    const Grid grid(s.N, s.C, s.width, s.height);
    if (const int32_t status = check(grid, args->capacity)) return status;
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    int64_t saved_bytes = 0, scratch_bytes = 0;
    const Saved saved(const_cast<void*>(args->saved), grid, args->capacity, &saved_bytes);
    const BackwardScratch scratch(args->scratch, grid, &scratch_bytes);
    if (args->saved_bytes < saved_bytes || args->scratch_bytes < scratch_bytes) return too_small();
    clear(scratch.gradients, grid.N * grid.C * GRADIENT_FLOATS * sizeof(float), stream);
    launch_raster_backward(grid, saved, {args->color, args->alpha, args->depth, args->v_color, args->v_alpha, args->v_depth},
                           scratch.gradients, stream);
    launch_splat_project_backward(*args, grid, saved.records, scratch.gradients, stream);
    return finish("splat backward");
}

int32_t av_rasterize_forward(const AvRasterize* args) {
    using namespace av;
    const Grid grid(args->N, args->C, args->width, args->height);
    if (const int32_t status = check(grid, args->capacity)) return status;
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    int64_t saved_bytes = 0, scratch_bytes = 0;
    const Saved saved(args->saved, grid, args->capacity, &saved_bytes);
    const ForwardScratch scratch(args->scratch, grid, args->capacity, &scratch_bytes);
    if (args->saved_bytes < saved_bytes || args->scratch_bytes < scratch_bytes) return too_small();
    begin_forward(grid, saved, scratch, args->counters, stream);
    launch_pack(args->in, grid, {saved.records, nullptr, args->contributions, saved.class_sizes}, scratch, stream);
    launch_bins(grid, args->capacity, saved, scratch, args->counters, stream);
    launch_raster(grid, saved, {args->backgrounds, args->color, args->alpha, args->depth, args->contributions}, stream);
    return finish("rasterize");
}

int32_t av_rasterize_backward(const AvRasterizeBackward* args) {
    using namespace av;
    const Grid grid(args->N, args->C, args->width, args->height);
    if (const int32_t status = check(grid, args->capacity)) return status;
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    int64_t saved_bytes = 0, scratch_bytes = 0;
    const Saved saved(const_cast<void*>(args->saved), grid, args->capacity, &saved_bytes);
    const BackwardScratch scratch(args->scratch, grid, &scratch_bytes);
    if (args->saved_bytes < saved_bytes || args->scratch_bytes < scratch_bytes) return too_small();
    clear(scratch.gradients, grid.N * grid.C * GRADIENT_FLOATS * sizeof(float), stream);
    launch_raster_backward(grid, saved, {args->color, args->alpha, args->depth, args->v_color, args->v_alpha, args->v_depth},
                           scratch.gradients, stream);
    launch_unpack_gradients(*args, saved.records, scratch.gradients, stream);
    return finish("rasterize backward");
}

}  // extern "C"
