// An ensemble of hash grids, blended per position: a group of lanes per position and level, each with every LANES-th float of the rows, which
// hold all heads side by side. So a corner is read, or added to, in whole lines. Gradients to weights and positions: a warp per
// position over all levels.
#include "hash.cuh"

namespace av {

template <int FEATURES, int LANES>
__global__ void __launch_bounds__(HASH_THREADS)
    hash_blend_kernel(HashLevels levels, int64_t N, int heads, const float* positions, const float* table, const float* weights, float* out) {
    const int64_t n = ((int64_t)blockIdx.x * HASH_THREADS + threadIdx.x) / LANES, mine = n < N ? n : N - 1;
    const int level = blockIdx.y, lane = threadIdx.x % LANES, width = heads * FEATURES;
    const HashCorners h = levels.corners(positions, mine, level);
    const float* rows = table + levels.offsets[level] * width;
    float sum = 0;
    for (int at = lane; at < width; at += LANES) {
        float feature = 0;
#pragma unroll
        for (int c = 0; c < 8; ++c) feature = fmaf(hash_weight(h, c), rows[(int64_t)h.row[c] * width + at], feature);
        sum = fmaf(weights[mine * heads + at / FEATURES], feature, sum);
    }
    for (int bit = LANES / 2; bit >= FEATURES; bit /= 2) sum += __shfl_xor_sync(FULL, sum, bit);
    if (n < N && lane < FEATURES) out[(n * levels.count + level) * FEATURES + lane] = sum;
}

template <int FEATURES, int LANES>
__global__ void __launch_bounds__(HASH_THREADS) hash_blend_table_kernel(HashLevels levels, int64_t N, int heads, const float* positions,
                                                                        const float* weights, const float* v_out, float* v_table) {
    const int64_t n = ((int64_t)blockIdx.x * HASH_THREADS + threadIdx.x) / LANES;
    const int level = blockIdx.y, lane = threadIdx.x % LANES, width = heads * FEATURES;
    if (n >= N) return;
    const float v = v_out[(n * levels.count + level) * FEATURES + lane % FEATURES];
    if (v == 0) return;
    const HashCorners h = levels.corners(positions, n, level);
    float* rows = v_table + levels.offsets[level] * width;
    for (int at = lane; at < width; at += LANES) {
        const float v_row = v * weights[n * heads + at / FEATURES];
#pragma unroll
        for (int c = 0; c < 8; ++c) atomicAdd(rows + (int64_t)h.row[c] * width + at, hash_weight(h, c) * v_row);
    }
}

template <int FEATURES>
__global__ void __launch_bounds__(HASH_THREADS)
    hash_blend_inputs_kernel(HashLevels levels, int64_t N, int heads, const float* positions, const float* table, const float* weights,
                             const float* v_out, float* v_positions, float* v_weights) {
    const int64_t n = ((int64_t)blockIdx.x * HASH_THREADS + threadIdx.x) / 32;
    const int lane = threadIdx.x & 31, width = heads * FEATURES;
    if (n >= N) return;  // whole warps
    float v_position[3] = {0, 0, 0};
    for (int first = 0; first < width; first += 32) {
        const int at = first + lane;
        const bool here = at < width;
        const float weight = here ? weights[n * heads + at / FEATURES] : 0;
        float v_weight = 0;
        for (int level = 0; here && level < levels.count; ++level) {
            const HashCorners h = levels.corners(positions, n, level);
            const float* rows = table + levels.offsets[level] * width;
            const float v = v_out[(n * levels.count + level) * FEATURES + at % FEATURES];
#pragma unroll
            for (int c = 0; c < 8; ++c) {
                const float product = rows[(int64_t)h.row[c] * width + at] * v;
                v_weight = fmaf(hash_weight(h, c), product, v_weight);
                hash_weight_backward(h, c, levels.scales[level], weight * product, v_position);
            }
        }
        for (int bit = FEATURES / 2; bit > 0; bit /= 2) v_weight += __shfl_xor_sync(FULL, v_weight, bit);
        if (v_weights && here && lane % FEATURES == 0) v_weights[n * heads + at / FEATURES] = v_weight;
    }
    if (!v_positions) return;
    for (int i = 0; i < 3; ++i) {
        for (int bit = 16; bit > 0; bit /= 2) v_position[i] += __shfl_xor_sync(FULL, v_position[i], bit);
    }
    if (lane < 3) v_positions[3 * n + lane] = lane == 0 ? v_position[0] : lane == 1 ? v_position[1] : v_position[2];
}

template <int FEATURES>
static void blend_forward(const AvHash& in, const HashLevels& levels) {
    const bool wide = in.heads * FEATURES > 16;
    const dim3 grid(blocks_for(in.N * (wide ? 32 : 8), HASH_THREADS), (unsigned)in.levels), block(HASH_THREADS);
    launch(wide ? hash_blend_kernel<FEATURES, 32> : hash_blend_kernel<FEATURES, 8>, grid, block, stream_of(in.launch), levels, in.N, in.heads,
           in.positions, in.table, in.weights, in.out);
}

template <int FEATURES>
static void blend_backward(const AvHash& in, const HashLevels& levels) {
    const cudaStream_t stream = stream_of(in.launch);
    const bool wide = in.heads * FEATURES > 16;
    const dim3 grid(blocks_for(in.N * (wide ? 32 : 8), HASH_THREADS), (unsigned)in.levels), block(HASH_THREADS);
    if (in.v_table) {
        launch(wide ? hash_blend_table_kernel<FEATURES, 32> : hash_blend_table_kernel<FEATURES, 8>, grid, block, stream, levels, in.N, in.heads,
               in.positions, in.weights, in.v_out, in.v_table);
    }
    if (in.v_weights || in.v_positions) {
        launch(hash_blend_inputs_kernel<FEATURES>, dim3(blocks_for(in.N * 32, HASH_THREADS)), block, stream, levels, in.N, in.heads, in.positions,
               in.table, in.weights, in.v_out, in.v_positions, in.v_weights);
    }
}

int32_t hash_blend_forward(const AvHash& in, const HashLevels& levels) {
#define AV_CALL(F) blend_forward<F>(in, levels)
    AV_BY_FEATURES(in.features, AV_CALL)
#undef AV_CALL
    return finish("hash ensemble");
}

int32_t hash_blend_backward(const AvHash& in, const HashLevels& levels) {
#define AV_CALL(F) blend_backward<F>(in, levels)
    AV_BY_FEATURES(in.features, AV_CALL)
#undef AV_CALL
    return finish("hash ensemble backward");
}

}  // namespace av
