// Multi-resolution hash grid: a thread per position and level, the blocks of one level after another, so that a level's rows stay
// in the L2 cache while they are read (and added to). Positions' gradients: a thread per position over all levels.
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

template <int FEATURES>
struct alignas(FEATURES >= 4 ? 16 : 4 * FEATURES) Row {  // one load or two
    float f[FEATURES];
};

template <int FEATURES>
__global__ void __launch_bounds__(HASH_THREADS)
    hash_kernel(HashLevels levels, int64_t N, const float* positions, const float* table, float* out) {
    const int64_t n = (int64_t)blockIdx.x * HASH_THREADS + threadIdx.x;
    const int level = blockIdx.y;
    if (n >= N) return;
    const HashCorners h = levels.corners(positions, n, level);
    const Row<FEATURES>* rows = reinterpret_cast<const Row<FEATURES>*>(table) + levels.offsets[level];
    Row<FEATURES> corner[8], sum = {};
#pragma unroll
    for (int c = 0; c < 8; ++c) corner[c] = rows[h.row[c]];  // all in flight at once
#pragma unroll
    for (int c = 0; c < 8; ++c) {
        const float w = hash_weight(h, c);
#pragma unroll
        for (int f = 0; f < FEATURES; ++f) sum.f[f] = fmaf(w, corner[c].f[f], sum.f[f]);
    }
    reinterpret_cast<Row<FEATURES>*>(out)[n * levels.count + level] = sum;
}

template <int FEATURES>
__device__ inline void add_row(float* at, const float* v) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    constexpr int PAIRS = FEATURES / 2;  // two floats per transaction
#else
    constexpr int PAIRS = 0;
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    for (int i = 0; i < PAIRS; ++i) atomicAdd(reinterpret_cast<float2*>(at) + i, make_float2(v[2 * i], v[2 * i + 1]));
#endif
    for (int f = 2 * PAIRS; f < FEATURES; ++f) atomicAdd(at + f, v[f]);
}

template <int FEATURES>
__global__ void __launch_bounds__(HASH_THREADS)
    hash_table_kernel(HashLevels levels, int64_t N, const float* positions, const float* v_out, float* v_table) {
    const int64_t n = (int64_t)blockIdx.x * HASH_THREADS + threadIdx.x;
    const int level = blockIdx.y;
    if (n >= N) return;
    const Row<FEATURES> v = reinterpret_cast<const Row<FEATURES>*>(v_out)[n * levels.count + level];
    bool any = false;
    for (int f = 0; f < FEATURES; ++f) any = any || v.f[f] != 0;
    if (!any) return;
    const HashCorners h = levels.corners(positions, n, level);
#pragma unroll
    for (int c = 0; c < 8; ++c) {
        const float w = hash_weight(h, c);
        float scaled[FEATURES];
        for (int f = 0; f < FEATURES; ++f) scaled[f] = w * v.f[f];
        add_row<FEATURES>(v_table + (levels.offsets[level] + h.row[c]) * FEATURES, scaled);
    }
}

template <int FEATURES>
__global__ void __launch_bounds__(HASH_THREADS) hash_position_kernel(HashLevels levels, int64_t N, const float* positions,
                                                                     const float* table, const float* v_out, float* v_positions) {
    const int64_t n = (int64_t)blockIdx.x * HASH_THREADS + threadIdx.x;
    if (n >= N) return;
    float v_position[3] = {0, 0, 0};
    for (int level = 0; level < levels.count; ++level) {
        const HashCorners h = levels.corners(positions, n, level);
        const Row<FEATURES> v = reinterpret_cast<const Row<FEATURES>*>(v_out)[n * levels.count + level];
        const Row<FEATURES>* rows = reinterpret_cast<const Row<FEATURES>*>(table) + levels.offsets[level];
#pragma unroll
        for (int c = 0; c < 8; ++c) {
            const Row<FEATURES> row = rows[h.row[c]];
            float v_weight = 0;
            for (int f = 0; f < FEATURES; ++f) v_weight = fmaf(row.f[f], v.f[f], v_weight);
            hash_weight_backward(h, c, levels.scales[level], v_weight, v_position);
        }
    }
    for (int i = 0; i < 3; ++i) v_positions[3 * n + i] = v_position[i];
}

static bool levels_of(HashLevels& levels, int count, const float* scales, const int32_t* resolutions, const int64_t* offsets) {
    if (count < 1 || count > HASH_LEVELS) return false;
    levels.count = count;
    for (int i = 0; i <= count; ++i) {
        levels.offsets[i] = offsets[i];
        if (i == count) break;
        levels.scales[i] = scales[i], levels.resolutions[i] = (uint32_t)resolutions[i];
        if (offsets[i + 1] <= offsets[i] || offsets[i + 1] - offsets[i] > 0xffffffffll) return false;
    }
    return true;
}

static bool aligned(const void* pointer, int features) {
    return (reinterpret_cast<uintptr_t>(pointer) & (features >= 4 ? 15 : 4 * features - 1)) == 0;
}

#define AV_BY_FEATURES(features, call) \
    switch (features) {                \
        case 1: call(1); break;        \
        case 2: call(2); break;        \
        case 4: call(4); break;        \
        case 8: call(8); break;        \
        default: return fail(AV_UNSUPPORTED, "hash: features per level must be 1, 2, 4 or 8"); \
    }

}  // namespace av

extern "C" {

int32_t av_hash_forward(const AvLaunch* where, int64_t N, int32_t count, int32_t features, const float* scales,
                        const int32_t* resolutions, const int64_t* offsets, const float* positions, const float* table,
                        float* out) {
    using namespace av;
    HashLevels levels;
    if (!levels_of(levels, count, scales, resolutions, offsets)) return fail(AV_INVALID, "hash: 1 to 32 levels of 1 to 2^32 rows");
    if (!aligned(table, features) || !aligned(out, features)) return fail(AV_INVALID, "hash: the table must be aligned to its rows");
    const OnDevice device(*where);
    const dim3 grid(blocks_for(N, HASH_THREADS), (unsigned)count);
#define AV_CALL(F) launch(hash_kernel<F>, grid, dim3(HASH_THREADS), stream_of(*where), levels, N, positions, table, out)
    AV_BY_FEATURES(features, AV_CALL)
#undef AV_CALL
    return finish("hash");
}

int32_t av_hash_backward(const AvLaunch* where, int64_t N, int32_t count, int32_t features, const float* scales,
                         const int32_t* resolutions, const int64_t* offsets, const float* positions, const float* table,
                         const float* v_out, float* v_table, float* v_positions) {
    using namespace av;
    HashLevels levels;
    if (!levels_of(levels, count, scales, resolutions, offsets)) return fail(AV_INVALID, "hash: 1 to 32 levels of 1 to 2^32 rows");
    if (!aligned(table, features) || !aligned(v_out, features) || !aligned(v_table, features)) {
        return fail(AV_INVALID, "hash: the table must be aligned to its rows");
    }
    const OnDevice device(*where);
    const cudaStream_t stream = stream_of(*where);
    const dim3 grid(blocks_for(N, HASH_THREADS), (unsigned)count);
    if (v_table) {
        clear(v_table, levels.offsets[count] * features * sizeof(float), stream);
#define AV_CALL(F) launch(hash_table_kernel<F>, grid, dim3(HASH_THREADS), stream, levels, N, positions, v_out, v_table)
        AV_BY_FEATURES(features, AV_CALL)
#undef AV_CALL
    }
    if (v_positions) {
#define AV_CALL(F) \
    launch(hash_position_kernel<F>, dim3(grid.x), dim3(HASH_THREADS), stream, levels, N, positions, table, v_out, v_positions)
        AV_BY_FEATURES(features, AV_CALL)
#undef AV_CALL
    }
    return finish("hash backward");
}

}  // extern "C"
