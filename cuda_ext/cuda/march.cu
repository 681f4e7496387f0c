// Occupancy-grid marching: a thread per ray, once to count its samples and once to write them where the running sum of the counts says.
#include "../include/volume.h"
#include "platform.cuh"

namespace av {

constexpr int MARCH_THREADS = 128;

__global__ void __launch_bounds__(MARCH_THREADS) march_count_kernel(AvMarch in) {
    const int64_t r = (int64_t)blockIdx.x * MARCH_THREADS + threadIdx.x;
    if (r >= in.R) return;
    int64_t count = 0;
    march_ray(in, load_ray(in, r), [&](float) { ++count; });
    in.counts[r] = count;
}

__global__ void __launch_bounds__(MARCH_THREADS) march_fill_kernel(AvMarch in) {
    const int64_t r = (int64_t)blockIdx.x * MARCH_THREADS + threadIdx.x;
    if (r >= in.R) return;
    int64_t at = in.offsets[r];
    const int64_t end = min(in.offsets[r + 1], in.capacity);
    if (at < 0 || at >= end) return;
    const Ray ray = load_ray(in, r);
    march_ray(in, ray, [&](float k) {
        if (at >= end) return;
        in.ray_ids[at] = r;
        in.starts[at] = sample_start(in, ray, k), in.ends[at] = sample_start(in, ray, k + 1.0f);
        ++at;
    });
}

static int32_t refused(const AvMarch& in) {
    if (in.R < 0 || in.R > 0x7fffffffll * MARCH_THREADS) return fail(AV_INVALID, "march: too many rays for one call");
    if (in.levels < 1 || in.levels > 16) return fail(AV_INVALID, "march: the occupancy must have 1..16 levels");
    if (in.cells[0] < 1 || in.cells[1] < 1 || in.cells[2] < 1) return fail(AV_INVALID, "march: a grid must have cells");
    if (!(in.step > 0) || !(in.far_plane >= in.near_plane) || !(in.far_plane - in.near_plane <= AV_MARCH_STEPS * in.step))
        return fail(AV_INVALID, "march: far - near must be a countable number of steps");
    return AV_OK;
}

}  // namespace av

extern "C" {

int32_t av_march_count(const AvMarch* args) {
    using namespace av;
    if (const int32_t status = refused(*args)) return status;
    const OnDevice device(args->launch);
    launch(march_count_kernel, dim3(blocks_for(args->R, MARCH_THREADS)), dim3(MARCH_THREADS), stream_of(args->launch), *args);
    return finish("march");
}

int32_t av_march_fill(const AvMarch* args) {
    using namespace av;
    if (const int32_t status = refused(*args)) return status;
    const OnDevice device(args->launch);
    launch(march_fill_kernel, dim3(blocks_for(args->R, MARCH_THREADS)), dim3(MARCH_THREADS), stream_of(args->launch), *args);
    return finish("march");
}

}  // extern "C"
