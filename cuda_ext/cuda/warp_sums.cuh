// Sums of ten values over a warp, in a butterfly that halves the number of values at each step: 12 shuffles in place of 50.
#pragma once
#include "platform.cuh"

namespace av {

constexpr int VALUES = 10;

// Ten even lanes end up with the warp's sum of one value each; which one: value_of_lane.
__device__ inline float warp_sums(const float v[VALUES]) {
    const int lane = threadIdx.x & 31;
    const bool b4 = lane & 16, b3 = lane & 8, b2 = lane & 4, b1 = lane & 2;
    float w[6];
#pragma unroll
    for (int i = 0; i < 5; ++i) {
        const float keep = b4 ? v[5 + i] : v[i], give = b4 ? v[i] : v[5 + i];
        w[i] = keep + __shfl_xor_sync(FULL, give, 16);
    }
    w[5] = 0;
    float x[4];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        const float keep = b3 ? w[3 + i] : w[i], give = b3 ? w[i] : w[3 + i];
        x[i] = keep + __shfl_xor_sync(FULL, give, 8);
    }
    x[3] = 0;
    float y[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float keep = b2 ? x[2 + i] : x[i], give = b2 ? x[i] : x[2 + i];
        y[i] = keep + __shfl_xor_sync(FULL, give, 4);
    }
    const float keep = b1 ? y[1] : y[0], give = b1 ? y[0] : y[1];
    const float z = keep + __shfl_xor_sync(FULL, give, 2);
    return z + __shfl_xor_sync(FULL, z, 1);
}

__device__ inline int value_of_lane() {
    const int lane = threadIdx.x & 31;
    const int third = (lane & 4 ? 2 : 0) + (lane & 2 ? 1 : 0);
    const int fifth = (lane & 8 ? 3 : 0) + third;
    return (lane & 1) || third > 2 || fifth > 4 ? -1 : (lane & 16 ? 5 : 0) + fifth;
}

}  // namespace av
