// What the kernels of a hash grid and those of an ensemble share.
#pragma once
#include "../include/hash.h"
#include "platform.cuh"

namespace av {

constexpr int HASH_THREADS = 256, HASH_LEVELS = 32;

struct HashLevels {
    float scales[HASH_LEVELS];
    uint32_t resolutions[HASH_LEVELS];
    int64_t offsets[HASH_LEVELS + 1];
    int count;

    __device__ HashCorners corners(const float* positions, int64_t n, int level) const {
        const float position[3] = {positions[3 * n], positions[3 * n + 1], positions[3 * n + 2]};
        return hash_corners(position, scales[level], resolutions[level], (uint32_t)(offsets[level + 1] - offsets[level]));
    }
};

// What is wrong with a call, or nullptr; fills the levels.
inline const char* hash_levels(HashLevels& levels, const AvHash& in) {
    if (in.levels < 1 || in.levels > HASH_LEVELS) return "hash: 1 to 32 levels";
    if (in.features != 1 && in.features != 2 && in.features != 4 && in.features != 8) return "hash: features per level must be 1, 2, 4 or 8";
    if (in.heads < 0 || in.heads > AV_HASH_HEADS) return "hash: 1 to 64 heads";
    levels.count = in.levels;
    for (int i = 0; i <= in.levels; ++i) {
        levels.offsets[i] = in.offsets[i];
        if (i == in.levels) break;
        levels.scales[i] = in.scales[i], levels.resolutions[i] = (uint32_t)in.resolutions[i];
        if (in.offsets[i + 1] <= in.offsets[i] || in.offsets[i + 1] - in.offsets[i] > 0xffffffffll) return "hash: 1 to 2^32 rows per level";
    }
    return nullptr;
}

int32_t hash_blend_forward(const AvHash& in, const HashLevels& levels);   // hash_blend.cu
int32_t hash_blend_backward(const AvHash& in, const HashLevels& levels);

#define AV_BY_FEATURES(features, call) \
    switch (features) {                \
        case 1: call(1); break;        \
        case 2: call(2); break;        \
        case 4: call(4); break;        \
        default: call(8);              \
    }

}  // namespace av
