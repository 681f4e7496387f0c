// Bytes to pictures over a background, a thread per pixel.
#include "platform.cuh"

namespace av {

constexpr int COMPOSE_THREADS = 256;

__global__ void __launch_bounds__(COMPOSE_THREADS) compose_kernel(AvCompose s, int64_t size) {
    const int64_t at = (int64_t)blockIdx.x * COMPOSE_THREADS + threadIdx.x, c = blockIdx.y, pixel = size * c + at;
    if (at >= size) return;
    const uint8_t* p = s.images + 4 * pixel;
    const float *A = s.matrices + 12 * c, *background = s.backgrounds + 3 * c;
    const float matte = p[3] / 255.0f;
    for (int i = 0; i < 3; ++i) {
        float value = fmaf(A[4 * i + 3] - background[i], matte, background[i]);
        for (int k = 0; k < 3; ++k) value = fmaf(A[4 * i + k], p[k] / 255.0f, value);
        s.pictures[3 * pixel + i] = value;
    }
    s.mattes[pixel] = matte;
}

__device__ inline float window_profile(float middle, float half, int i) {
    const float x = ((float)i + 0.5f - middle) / half, s = x * x;
    return s <= 2.25f ? expf(-s * s) : 0.0f;
}

__global__ void __launch_bounds__(COMPOSE_THREADS) windows_kernel(AvWindows s) {
    const int64_t at = (int64_t)blockIdx.x * COMPOSE_THREADS + threadIdx.x, c = blockIdx.y, size = (int64_t)s.height * s.width;
    if (at >= size) return;
    float weight = 1.0f;
    for (int64_t n = 0; n < s.W; ++n) {
        const float* w = s.windows + 5 * (s.W * c + n);
        bool counts = w[2] > 0.0f && w[3] > 0.0f;
        for (int i = 0; i < 5; ++i) counts = counts && fabsf(w[i]) <= 3.402823466e38f;
        if (counts) weight += w[4] * window_profile(w[0], w[2], (int)(at % s.width)) * window_profile(w[1], w[3], (int)(at / s.width));
    }
    s.weights[size * c + at] = weight;
}

}  // namespace av

extern "C" int32_t av_soft_windows(const AvWindows* args) {
    using namespace av;
    if (args->C < 0 || args->C > 65535) return fail(AV_INVALID, "soft_windows: at most 65535 pictures");
    const OnDevice device(args->launch);
    const int64_t size = (int64_t)args->height * args->width;
    launch(windows_kernel, dim3(blocks_for(size, COMPOSE_THREADS), (unsigned)args->C), dim3(COMPOSE_THREADS), stream_of(args->launch), *args);
    return finish("soft_windows");
}

extern "C" int32_t av_compose(const AvCompose* args) {
    using namespace av;
    if (args->C < 0 || args->C > 65535) return fail(AV_INVALID, "compose: at most 65535 pictures");
    const OnDevice device(args->launch);
    const int64_t size = (int64_t)args->height * args->width;
    launch(compose_kernel, dim3(blocks_for(size, COMPOSE_THREADS), (unsigned)args->C), dim3(COMPOSE_THREADS), stream_of(args->launch), *args, size);
    return finish("compose");
}
