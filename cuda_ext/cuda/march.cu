// Occupancy-grid marching: a thread per ray counts its samples and notes where they are; then a warp per ray writes them, side by side,
// where the running sum of the counts says.
#include "../include/volume.h"
#include "platform.cuh"

namespace av {

constexpr int MARCH_THREADS = 128, MARCH_WARPS = MARCH_THREADS / 32;

__global__ void __launch_bounds__(MARCH_THREADS) march_count_kernel(AvMarch in) {
    const int64_t r = (int64_t)blockIdx.x * MARCH_THREADS + threadIdx.x;
    if (r >= in.R) return;
    in.counts[r] = count_samples(in, r);
}

__global__ void __launch_bounds__(MARCH_THREADS) march_fill_kernel(AvMarch in) {
    const int64_t r = (int64_t)blockIdx.x * MARCH_WARPS + threadIdx.x / 32;
    if (r >= in.R) return;
    const int lane = threadIdx.x & 31;
    int64_t at = in.offsets[r];
    const int64_t end = min(in.offsets[r + 1], in.capacity);
    if (at < 0) return;
    const float jitter = in.jitter ? in.jitter[r] : 0.0f;
    const int32_t* runs = in.runs + 2 * AV_MARCH_RUNS * r;
    for (int run = 0; at < end; ++run) {
        if (run == AV_MARCH_RUNS) {
            if (lane) return;
            put_rest(in, r, (float)(runs[2 * run - 2] + runs[2 * run - 1]), at, end, [&](int64_t place, float k, int64_t n) {
                for (int64_t i = 0; i < n; ++i) put_sample(in, place + i, r, jitter, k + (float)i);
            });
            return;
        }
        const int32_t begin = runs[2 * run], length = runs[2 * run + 1];
        if (length <= 0) return;
        for (int32_t i = lane; i < length && at + i < end; i += 32) put_sample(in, at + i, r, jitter, (float)(begin + i));
        at += length;
    }
}

static int32_t refused(const AvMarch& in) {
    if (in.R < 0 || in.R > 0x7fffffffll * MARCH_WARPS) return fail(AV_INVALID, "march: too many rays for one call");
    if (in.levels < 1 || in.levels > 16) return fail(AV_INVALID, "march: the occupancy must have 1..16 levels");
    for (const int32_t cells : in.cells)
        if (cells < 1 || (in.levels > 1 && cells % 4)) return fail(AV_INVALID, "march: a grid must have cells, nested ones multiples of 4");
    if (!(in.step > 0) || !(in.far_plane >= in.near_plane) || !(in.growth >= 0) || !(steps_to(in, in.far_plane) <= AV_MARCH_STEPS))
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
    launch(march_fill_kernel, dim3(blocks_for(args->R, MARCH_WARPS)), dim3(MARCH_THREADS), stream_of(args->launch), *args);
    return finish("march");
}

}  // extern "C"
