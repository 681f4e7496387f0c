// Bytes to pictures over a background, sixteen pixels at a time.
#pragma once
#include "../include/abi.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

enum { COMPOSE_CHUNK = 4096 };  // pixels per task

typedef int32_t PixelBytes __attribute__((vector_size(64)));  // sixteen of four bytes
typedef float PixelValues __attribute__((vector_size(64)));

AV_INLINE F16 channel_of(const PixelBytes& pixels, int channel) {
    const PixelValues values = __builtin_convertvector((pixels >> (8 * channel)) & 255, PixelValues);
    return load((const float*)&values);
}

static int32_t compose(const AvCompose* args) {
    const AvCompose& in = *args;
    const int64_t size = (int64_t)in.height * in.width, chunks = (size + COMPOSE_CHUNK - 1) / COMPOSE_CHUNK;
    parallel_for(in.launch.threads, in.C * chunks, [&](int64_t task, int) {
        const int64_t c = task / chunks, first = task % chunks * COMPOSE_CHUNK, end = first + COMPOSE_CHUNK < size ? first + COMPOSE_CHUNK : size;
        const float *A = in.matrices + 12 * c, *background = in.backgrounds + 3 * c;
        F16 m[3][4], behind[3];
        for (int i = 0; i < 3; ++i) {
            for (int k = 0; k < 3; ++k) m[i][k] = F16(A[4 * i + k] / 255.0f);
            m[i][3] = F16((A[4 * i + 3] - background[i]) / 255.0f);
            behind[i] = F16(background[i]);
        }
        for (int64_t at = first; at < end; at += 16) {
            const int count = end - at < 16 ? (int)(end - at) : 16;
            const int64_t pixel = size * c + at;
            PixelBytes pixels = {};
            memcpy(&pixels, in.images + 4 * pixel, (size_t)count * 4);
            F16 out[3];
            const F16 matte = channel_of(pixels, 3);
            for (int i = 0; i < 3; ++i) out[i] = fma_(m[i][3], matte, behind[i]);
            for (int k = 0; k < 3; ++k) {
                const F16 value = channel_of(pixels, k);
                for (int i = 0; i < 3; ++i) out[i] = fma_(m[i][k], value, out[i]);
            }
            store_rows<3>(in.pictures + 3 * pixel, count, out);
            store_part(in.mattes + pixel, matte * F16(1.0f / 255.0f), count);
        }
    });
    return AV_OK;
}

// Strength of a window along one axis at pixel i.
AV_INLINE float window_profile(float middle, float half, int i) {
    const float x = ((float)i + 0.5f - middle) / half, s = x * x;
    return s <= 2.25f ? expf(-s * s) : 0.0f;
}

AV_INLINE bool window_counts(const float* w) {
    return finite_(w[0]) && finite_(w[1]) && finite_(w[2]) && finite_(w[3]) && finite_(w[4]) && w[2] > 0.0f && w[3] > 0.0f;
}

static int32_t soft_windows(const AvWindows* args) {
    const AvWindows& in = *args;
    enum { ROWS = 32, COLUMNS = 512 };  // a task: that many rows, columns by the run
    const int64_t strips = (in.height + ROWS - 1) / ROWS;
    parallel_for(in.launch.threads, in.C * strips, [&](int64_t task, int) {
        const int64_t c = task / strips;
        const int top = (int)(task % strips) * ROWS, bottom = top + ROWS < in.height ? top + ROWS : in.height;
        const float* windows = in.windows + 5 * in.W * c;
        float* out = in.weights + (int64_t)in.height * in.width * c;
        for (int64_t i = (int64_t)top * in.width; i < (int64_t)bottom * in.width; ++i) out[i] = 1.0f;
        for (int64_t n = 0; n < in.W; ++n) {
            const float* w = windows + 5 * n;
            if (!window_counts(w)) continue;
            for (int left = 0; left < in.width; left += COLUMNS) {
                float along[COLUMNS];
                const int count = in.width - left < COLUMNS ? in.width - left : COLUMNS;
                for (int x = 0; x < count; ++x) along[x] = w[4] * window_profile(w[0], w[2], left + x);
                for (int y = top; y < bottom; ++y) {
                    const float down = window_profile(w[1], w[3], y);
                    float* row = out + (int64_t)y * in.width + left;
                    for (int x = 0; down > 0.0f && x < count; ++x) row[x] += down * along[x];
                }
            }
        }
    });
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
