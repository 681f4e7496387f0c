// Multi-resolution hash grids. Part of abi.h.
#pragma once
#include "abi_common.h"

#ifdef __cplusplus
extern "C" {
#endif

// Multi-resolution hash grid, see include/hash.h. On the host: scales and resolutions [levels], offsets [levels + 1]. positions [N, 3] in
// 0..1, table [offsets[levels], features], out and v_out [N, levels · features]; v_table and v_positions are written, NULL to skip.
int32_t av_hash_forward(const AvLaunch* launch, int64_t N, int32_t levels, int32_t features, const float* scales,
                        const int32_t* resolutions, const int64_t* offsets, const float* positions, const float* table,
                        float* out);
int32_t av_hash_backward(const AvLaunch* launch, int64_t N, int32_t levels, int32_t features, const float* scales,
                         const int32_t* resolutions, const int64_t* offsets, const float* positions, const float* table,
                         const float* v_out, float* v_table, float* v_positions);

#ifdef __cplusplus
}
#endif
