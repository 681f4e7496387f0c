// Multi-resolution hash grids. Part of abi.h.
#pragma once
#include "abi_common.h"

#ifdef __cplusplus
extern "C" {
#endif

// Multi-resolution hash grid, see include/hash.h; or an ensemble of `heads` grids whose features are blended per position:
//   out[n, level, f] = Σ_h weights[n, h] · Σ_corner w_corner(n, level) · table[row(corner), h, f].
typedef struct AvHash {
    AvLaunch launch;
    int64_t N;
    int32_t levels;              // 1..32
    int32_t features;            // per level: 1, 2, 4 or 8
    int32_t heads;               // 0: one grid without weights; 1..AV_HASH_HEADS: an ensemble
    int32_t reserved;
    const float* scales;         // [levels], on the host, as are the next two
    const int32_t* resolutions;  // [levels]
    const int64_t* offsets;      // [levels + 1] first row of each level
    const float* positions;      // [N, 3] in 0..1, clamped to it
    const float* table;          // [offsets[levels], features], or [offsets[levels], heads, features]
    const float* weights;        // [N, heads]
    float* out;                  // [N, levels · features]
    // backward: v_out is read, the others are written, NULL to skip
    const float* v_out;
    float* v_table;
    float* v_positions;
    float* v_weights;
    void* scratch;               // av_hash_scratch(...)
    int64_t scratch_bytes;
} AvHash;

#define AV_HASH_HEADS 64

int32_t av_hash_encode(const AvHash* args);
int32_t av_hash_encode_backward(const AvHash* args);
int64_t av_hash_scratch(const AvHash* args);  // of the call to come: backward if v_out is given

// An ensemble collapsed into one table: out[r, f] = Σ_h weights[h] · tables[r, h, f].
typedef struct AvHashTables {
    AvLaunch launch;
    int64_t rows;
    int32_t heads;         // 1..AV_HASH_HEADS
    int32_t features;      // 1, 2, 4 or 8
    const float* tables;   // [rows, heads, features]
    const float* weights;  // [heads]
    float* out;            // [rows, features]
    // backward: v_out is read, the others are written, NULL to skip
    const float* v_out;
    float* v_tables;
    float* v_weights;
    void* scratch;         // backward: av_hash_tables_scratch(...)
    int64_t scratch_bytes;
} AvHashTables;

int32_t av_hash_tables(const AvHashTables* args);
int32_t av_hash_tables_backward(const AvHashTables* args);
int64_t av_hash_tables_scratch(const AvHashTables* args);

#ifdef __cplusplus
}
#endif
