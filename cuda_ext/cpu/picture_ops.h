// Bytes to pictures over a background and to weights of their pixels, sixteen pixels at a time.
#pragma once
#include "../include/abi.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

enum { COMPOSE_ROWS = 32, COMPOSE_COLUMNS = 512 };  // a task: that many rows; columns of a box by the run

typedef int32_t PixelBytes __attribute__((vector_size(64)));  // sixteen of four bytes
typedef float PixelValues __attribute__((vector_size(64)));

AV_INLINE F16 values_of(const PixelBytes& integers) {
    const PixelValues values = __builtin_convertvector(integers, PixelValues);
    return load((const float*)&values);
}

// The four channels of sixteen pixels, `count` valid: 0–255.
AV_INLINE void load_bytes(const uint8_t* p, int count, F16* channels) {
    PixelBytes pixels = {};
    if (count == 16)
        memcpy(&pixels, p, 64);
    else
        memcpy(&pixels, p, (size_t)count * 4);
    for (int k = 0; k < 4; ++k) channels[k] = values_of((pixels >> (8 * k)) & 255);
}

// The same for the sums of 2×2 pixels: 0–1020.
AV_INLINE void load_squares(const uint8_t* p, int64_t pitch, int count, F16* channels) {
    const PixelBytes low = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    PixelBytes even[2] = {}, odd[2] = {};  // channels 0 and 2, 1 and 3, as sixteen bits each: the sums of two rows
    for (int row = 0; row < 2; ++row) {
        PixelBytes pixels[2] = {};
        memcpy(pixels, p + row * pitch, count == 16 ? 128 : (size_t)count * 8);
        for (int i = 0; i < 2; ++i) even[i] += pixels[i] & 0x00ff00ff, odd[i] += (pixels[i] >> 8) & 0x00ff00ff;
    }
    const PixelBytes first = __builtin_shuffle(even[0], even[1], low) + __builtin_shuffle(even[0], even[1], low + 1);
    const PixelBytes second = __builtin_shuffle(odd[0], odd[1], low) + __builtin_shuffle(odd[0], odd[1], low + 1);
    channels[0] = values_of(first & 0xffff), channels[1] = values_of(second & 0xffff);
    channels[2] = values_of(first >> 16), channels[3] = values_of(second >> 16);
}

// From recorded values to a picture over its background.
struct Composition {
    F16 m[3][4], behind[3], matte;

    AV_INLINE Composition(const AvCompose& in, int64_t c) {
        const float *A = in.matrices + 12 * c, *background = in.backgrounds + 3 * c, unit = in.halve ? 1.0f / 1020.0f : 1.0f / 255.0f;
        for (int i = 0; i < 3; ++i) {
            for (int k = 0; k < 3; ++k) m[i][k] = F16(A[4 * i + k] * unit);
            m[i][3] = F16((A[4 * i + 3] - background[i]) * unit);
            behind[i] = F16(background[i]);
        }
        matte = F16(unit);
    }

    AV_INLINE void put(const F16* channels, int count, float* picture, float* mattes) const {
        F16 out[3];
        for (int i = 0; i < 3; ++i) {
            out[i] = fma_(m[i][3], channels[3], behind[i]);
            for (int k = 0; k < 3; ++k) out[i] = fma_(m[i][k], channels[k], out[i]);
        }
        store_rows<3>(picture, count, out);
        store_part(mattes, channels[3] * matte, count);
    }
};

// Strength of a box along one axis at sixteen pixels from i on.
AV_INLINE F16 box_profile(float middle, float half, int i) {
    alignas(64) static const float steps[16] = {0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, 7.5f, 8.5f, 9.5f, 10.5f, 11.5f, 12.5f, 13.5f, 14.5f, 15.5f};
    const F16 x = (F16((float)i) + load(steps) - F16(middle)) * F16(1.0f / half), s = x * x;
    return keep(s <= F16(2.25f), exp_(-(s * s)));
}

// A box in pixels; false when it adds nothing.
AV_INLINE bool box_in_pixels(const float* w, const float* K, float* box) {
    for (int i = 0; i < 5; ++i)
        if (!finite_(w[i])) return false;
    box[0] = K[2] + K[1] * w[1] + K[0] * w[0], box[1] = K[5] + K[4] * w[1], box[2] = K[0] * w[2], box[3] = K[4] * w[3], box[4] = w[4];
    return finite_(box[0]) && finite_(box[1]) && finite_(box[2]) && finite_(box[3]) && box[2] > 0.0f && box[3] > 0.0f;
}

// The weights of rows [top, bottom) of picture c.
AV_INLINE void weigh_rows(const AvCompose& in, int64_t c, int top, int bottom, int height, int width) {
    float* out = in.weights + (int64_t)height * width * c;
    for (int64_t i = (int64_t)top * width; i < (int64_t)bottom * width; i += 16) {
        const int64_t left = (int64_t)bottom * width - i;
        store_part(out + i, F16(1.0f), left < 16 ? (int)left : 16);
    }
    for (int64_t n = 0; n < in.W; ++n) {
        float box[5], down[COMPOSE_ROWS], along[COMPOSE_COLUMNS];
        if (!box_in_pixels(in.windows + 5 * (in.W * c + n), in.Ks + 9 * c, box)) continue;
        for (int k = 0; k < COMPOSE_ROWS; k += 16) store(down + k, box_profile(box[1], box[3], top + k));
        for (int left = 0; left < width; left += COMPOSE_COLUMNS) {
            const int columns = width - left < COMPOSE_COLUMNS ? width - left : COMPOSE_COLUMNS;
            for (int x = 0; x < columns; x += 16) store(along + x, F16(box[4]) * box_profile(box[0], box[2], left + x));
            for (int y = top; y < bottom; ++y) {
                if (down[y - top] == 0.0f) continue;
                float* row = out + (int64_t)y * width + left;
                for (int x = 0; x < columns; x += 16) {
                    const int count = columns - x < 16 ? columns - x : 16;
                    store_part(row + x, fma_(F16(down[y - top]), load(along + x), load_part(row + x, count)), count);
                }
            }
        }
    }
}

static int32_t compose(const AvCompose* args) {
    const AvCompose& in = *args;
    const int height = in.halve ? in.height / 2 : in.height, width = in.halve ? in.width / 2 : in.width;
    const int64_t strips = (height + COMPOSE_ROWS - 1) / COMPOSE_ROWS, size = (int64_t)height * width, pitch = 4 * (int64_t)in.width;
    parallel_for(in.launch.threads, in.C * strips, [&](int64_t task, int) {
        const int64_t c = task / strips;
        const int top = (int)(task % strips) * COMPOSE_ROWS, bottom = top + COMPOSE_ROWS < height ? top + COMPOSE_ROWS : height;
        const Composition composition(in, c);
        const uint8_t* images = in.images + pitch * in.height * c;
        float *pictures = in.pictures + 3 * size * c, *mattes = in.mattes + size * c;
        F16 channels[4];
        if (in.halve) {
            for (int y = top; y < bottom; ++y) {
                for (int x = 0; x < width; x += 16) {
                    const int count = width - x < 16 ? width - x : 16;
                    const int64_t at = (int64_t)y * width + x;
                    load_squares(images + 2 * y * pitch + 8 * x, pitch, count, channels);
                    composition.put(channels, count, pictures + 3 * at, mattes + at);
                }
            }
        } else {
            const int64_t end = (int64_t)bottom * width;
            for (int64_t at = (int64_t)top * width; at < end; at += 16) {
                const int count = end - at < 16 ? (int)(end - at) : 16;
                load_bytes(images + 4 * at, count, channels);
                composition.put(channels, count, pictures + 3 * at, mattes + at);
            }
        }
        if (in.weights) weigh_rows(in, c, top, bottom, height, width);
    });
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
