// Recorded pictures to what a loss compares with. Part of abi.h.
#pragma once
#include "abi_common.h"

#ifdef __cplusplus
extern "C" {
#endif

// Bytes over a background, through one affine per camera. With p the three colours (times matte) and m the matte, both / 255:
//   picture = A p + b m + background (1 - m),   matrices = [A | b];
// with `halve` p and m are means of 2×2 pixels, an odd last row or column is dropped.
// And where pixels count more, in soft boxes: weight = 1 + Σ_w strength · exp(-x⁴) · exp(-y⁴), x and y from the box's middle in half-sizes;
// cut beyond 1.5 half-sizes. Boxes are in focal lengths from the principal point. One that is not finite or has no size adds nothing.
typedef struct AvCompose {
    AvLaunch launch;
    int64_t C;
    int64_t W;                 // boxes per picture
    int32_t height;            // of the recorded images
    int32_t width;
    int32_t halve;             // 0 or 1: what is made is floor(height / 2) × floor(width / 2)
    int32_t reserved;
    const uint8_t* images;     // [C, height, width, 4]
    const float* matrices;     // [C, 3, 4]
    const float* backgrounds;  // [C, 3]
    const float* windows;      // [C, W, 5] middle x, y and half-sizes x, y, strength
    const float* Ks;           // [C, 3, 3] of what is made; not read without boxes
    float* pictures;           // [C, H, W, 3]
    float* mattes;             // [C, H, W]
    float* weights;            // [C, H, W] or NULL
} AvCompose;

int32_t av_compose(const AvCompose* args);

#ifdef __cplusplus
}
#endif
