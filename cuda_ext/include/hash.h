// One level of a multi-resolution hash grid (Müller et al. 2022), one position: the eight rows to read and their weights.
//
// p = x·scale + ½, cell = floor(p); corners cell + {0,1}³. A level whose R³ grid points fit into its rows is dense, index
// i + R·j + R²·k; a larger one is hashed, i ⊕ 2654435761·j ⊕ 805459861·k. Either way modulo the rows, as tiny-cuda-nn does, so
// that tables can be exchanged with it (the last corner of a dense level may wrap). Positions are clamped to 0..1; no gradient outside.
#pragma once
#include "portable.h"

namespace av {
inline namespace AV_NS {

struct HashCorners {
    uint32_t cell[3];
    uint32_t row[8];  // bit 0: x, bit 1: y, bit 2: z
    float fraction[3];
    bool inside[3];
};

AV_HD uint32_t hash_row(uint32_t x, uint32_t y, uint32_t z, uint32_t resolution, uint32_t rows) {
    const bool dense = (uint64_t)resolution * resolution * resolution <= rows;
    const uint32_t index = dense ? x + resolution * (y + resolution * z) : x ^ (y * 2654435761u) ^ (z * 805459861u);
    return (rows & (rows - 1)) == 0 ? index & (rows - 1) : index % rows;  // a division costs twenty times as much
}

AV_HD HashCorners hash_corners(const float* position, float scale, uint32_t resolution, uint32_t rows) {
    HashCorners h;
    for (int i = 0; i < 3; ++i) {
        const float x = min_(max_(position[i], 0.0f), 1.0f);  // 0 for NaN
        h.inside[i] = position[i] >= 0.0f && position[i] <= 1.0f;
        const float p = x * scale + 0.5f, low = floorf(p);
        h.cell[i] = (uint32_t)low;
        h.fraction[i] = p - low;
    }
    for (int c = 0; c < 8; ++c)
        h.row[c] = hash_row(h.cell[0] + (c & 1), h.cell[1] + (c >> 1 & 1), h.cell[2] + (c >> 2), resolution, rows);
    return h;
}

AV_HD float hash_weight(const HashCorners& h, int corner) {
    const float x = h.fraction[0], y = h.fraction[1], z = h.fraction[2];
    return (corner & 1 ? x : 1 - x) * (corner & 2 ? y : 1 - y) * (corner & 4 ? z : 1 - z);
}

// Adds to v_position the gradient through a corner's weight, whose own gradient is v_weight.
AV_HD void hash_weight_backward(const HashCorners& h, int corner, float scale, float v_weight, float* v_position) {
    const float x = corner & 1 ? h.fraction[0] : 1 - h.fraction[0], y = corner & 2 ? h.fraction[1] : 1 - h.fraction[1];
    const float z = corner & 4 ? h.fraction[2] : 1 - h.fraction[2], v = v_weight * scale;
    if (h.inside[0]) v_position[0] += (corner & 1 ? v : -v) * y * z;
    if (h.inside[1]) v_position[1] += (corner & 2 ? v : -v) * x * z;
    if (h.inside[2]) v_position[2] += (corner & 4 ? v : -v) * x * y;
}

}  // namespace AV_NS
}  // namespace av
