// Recorded pictures to what a loss compares with. Part of abi.h.
#pragma once
#include "abi_common.h"

#ifdef __cplusplus
extern "C" {
#endif

// Bytes over a background, through one affine per camera. With p the three colours (times matte) and m the matte, both / 255:
//   picture = A p + b m + background (1 - m),   matrices = [A | b].
typedef struct AvCompose {
    AvLaunch launch;
    int64_t C;
    int32_t height;
    int32_t width;
    const uint8_t* images;     // [C, H, W, 4]
    const float* matrices;     // [C, 3, 4]
    const float* backgrounds;  // [C, 3]
    float* pictures;           // [C, H, W, 3]
    float* mattes;             // [C, H, W]
} AvCompose;

// Soft boxes that pixels count more in: weight = 1 + Σ_w strength · exp(-x⁴) · exp(-y⁴), x and y from the box's middle in half-sizes; cut
// beyond 1.5 half-sizes. A box that is not finite or has no size adds nothing.
typedef struct AvWindows {
    AvLaunch launch;
    int64_t C;
    int64_t W;
    int32_t height;
    int32_t width;
    const float* windows;  // [C, W, 5] middle x, y and half-sizes x, y in pixels, strength
    float* weights;        // [C, H, W]
} AvWindows;

int32_t av_compose(const AvCompose* args);
int32_t av_soft_windows(const AvWindows* args);

#ifdef __cplusplus
}
#endif
