// Bytes to pictures over a background and to weights of their pixels, a thread per pixel.
#include "platform.cuh"

namespace av {

constexpr int COMPOSE_THREADS = 256;

__device__ inline float box_profile(float middle, float half, int i) {
    const float x = ((float)i + 0.5f - middle) / half, s = x * x;
    return s <= 2.25f ? expf(-s * s) : 0.0f;
}

__device__ inline bool finite(float x) { return fabsf(x) <= 3.402823466e38f; }

// 1 and the boxes of picture c at a pixel.
__device__ inline float box_weight(const AvCompose& s, int64_t c, int x, int y) {
    float weight = 1.0f;
    const float* K = s.Ks + 9 * c;
    for (int64_t n = 0; n < s.W; ++n) {
        const float* w = s.windows + 5 * (s.W * c + n);
        const float left = K[2] + K[1] * w[1] + K[0] * w[0], top = K[5] + K[4] * w[1], wide = K[0] * w[2], high = K[4] * w[3];
        bool counts = wide > 0.0f && high > 0.0f && finite(left) && finite(top) && finite(wide) && finite(high);
        for (int i = 0; i < 5; ++i) counts = counts && finite(w[i]);
        if (counts) weight += w[4] * box_profile(left, wide, x) * box_profile(top, high, y);
    }
    return weight;
}

__global__ void __launch_bounds__(COMPOSE_THREADS) compose_kernel(AvCompose s, int height, int width) {
    const int64_t at = (int64_t)blockIdx.x * COMPOSE_THREADS + threadIdx.x, c = blockIdx.y, size = (int64_t)height * width, pixel = size * c + at;
    if (at >= size) return;
    const int x = (int)(at % width), y = (int)(at / width), side = s.halve ? 2 : 1;
    int sums[4] = {};
    for (int i = 0; i < side * side; ++i) {
        const int64_t from = ((int64_t)s.height * c + side * y + i / side) * s.width + side * x + i % side;
        for (int k = 0; k < 4; ++k) sums[k] += s.images[4 * from + k];
    }
    const float unit = s.halve ? 1.0f / 1020.0f : 1.0f / 255.0f, matte = sums[3] * unit;
    const float *A = s.matrices + 12 * c, *background = s.backgrounds + 3 * c;
    for (int i = 0; i < 3; ++i) {
        float value = fmaf(A[4 * i + 3] - background[i], matte, background[i]);
        for (int k = 0; k < 3; ++k) value = fmaf(A[4 * i + k], sums[k] * unit, value);
        s.pictures[3 * pixel + i] = value;
    }
    s.mattes[pixel] = matte;
    if (s.weights) s.weights[pixel] = box_weight(s, c, x, y);
}

}  // namespace av

extern "C" int32_t av_compose(const AvCompose* args) {
    using namespace av;
    if (args->C < 0 || args->C > 65535) return fail(AV_INVALID, "compose: at most 65535 pictures");
    const OnDevice device(args->launch);
    const int height = args->halve ? args->height / 2 : args->height, width = args->halve ? args->width / 2 : args->width;
    launch(compose_kernel, dim3(blocks_for((int64_t)height * width, COMPOSE_THREADS), (unsigned)args->C), dim3(COMPOSE_THREADS),
           stream_of(args->launch), *args, height, width);
    return finish("compose");
}
