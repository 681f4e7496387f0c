// Multi-resolution hash grid: a thread per position and level, the blocks of one level after another, so that a level's rows stay in
// the L2 cache while they are read (and added to). Positions' gradients: a thread per position over all levels.
#include "hash.cuh"

namespace av {

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

// Positions follow each other along rays, so at the coarse levels whole runs of a warp's lanes share a cell, and their additions would wait
// for each other. Where enough of them do, the first lane of a run adds for all.
constexpr int HASH_MOST_RUNS = 24;  // of 32 lanes; with more runs their sums cost as much as the additions that they spare

template <int FEATURES>
__global__ void __launch_bounds__(HASH_THREADS)
    hash_table_kernel(HashLevels levels, int64_t N, const float* positions, const float* v_out, float* v_table) {
    const int64_t n = (int64_t)blockIdx.x * HASH_THREADS + threadIdx.x;
    const int level = blockIdx.y, lane = threadIdx.x & 31;
    const int64_t mine = n < N ? n : N - 1;
    Row<FEATURES> v = reinterpret_cast<const Row<FEATURES>*>(v_out)[mine * levels.count + level];
    bool any = false;
    for (int f = 0; f < FEATURES; ++f) {
        if (n >= N) v.f[f] = 0;
        any = any || v.f[f] != 0;
    }
    const unsigned moving = __ballot_sync(FULL, any);
    if (!moving) return;
    const HashCorners h = levels.corners(positions, mine, level);
    // 21 bits each: finer levels than 2^21 would join lanes of different cells; they get no runs.
    const unsigned long long cell = h.cell[0] | (unsigned long long)h.cell[1] << 21 | (unsigned long long)h.cell[2] << 42;
    const unsigned long long before = __shfl_up_sync(FULL, cell, 1);
    unsigned heads = __ballot_sync(FULL, lane == 0 || cell != before);
    if (levels.resolutions[level] >= 1u << 21 || __popc(heads) > HASH_MOST_RUNS) heads = FULL;
    const unsigned later = lane == 31 ? 0 : heads >> (lane + 1);
    const int end = later ? lane + __ffs(later) : 32;  // of this lane's run

    float add[8][FEATURES];
#pragma unroll
    for (int c = 0; c < 8; ++c) {
        const float w = hash_weight(h, c);
        for (int f = 0; f < FEATURES; ++f) add[c][f] = w * v.f[f];
    }
    for (int step = 1; __any_sync(FULL, lane + step < end); step *= 2) {
#pragma unroll
        for (int c = 0; c < 8; ++c) {
            for (int f = 0; f < FEATURES; ++f) {
                const float other = __shfl_down_sync(FULL, add[c][f], step);
                if (lane + step < end) add[c][f] += other;
            }
        }
    }
    const unsigned run = (end == 32 ? FULL : (1u << end) - 1) & ~((1u << lane) - 1);
    if (!(heads >> lane & 1) || !(moving & run)) return;
#pragma unroll
    for (int c = 0; c < 8; ++c) add_row<FEATURES>(v_table + (levels.offsets[level] + h.row[c]) * FEATURES, add[c]);
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

static bool aligned(const void* pointer, int features) {
    return (reinterpret_cast<uintptr_t>(pointer) & (features >= 4 ? 15 : 4 * features - 1)) == 0;
}

}  // namespace av

extern "C" {

int32_t av_hash_encode(const AvHash* args) {
    using namespace av;
    const AvHash& in = *args;
    HashLevels levels;
    if (const char* wrong = hash_levels(levels, in)) return fail(AV_INVALID, wrong);
    const OnDevice device(in.launch);
    if (in.heads) return hash_blend_forward(in, levels);
    if (!aligned(in.table, in.features) || !aligned(in.out, in.features)) return fail(AV_INVALID, "hash: the table must be aligned to its rows");
    const dim3 grid(blocks_for(in.N, HASH_THREADS), (unsigned)in.levels);
#define AV_CALL(F) \
    launch(hash_kernel<F>, grid, dim3(HASH_THREADS), stream_of(in.launch), levels, in.N, in.positions, in.table, in.out)
    AV_BY_FEATURES(in.features, AV_CALL)
#undef AV_CALL
    return finish("hash");
}

int32_t av_hash_encode_backward(const AvHash* args) {
    using namespace av;
    const AvHash& in = *args;
    HashLevels levels;
    if (const char* wrong = hash_levels(levels, in)) return fail(AV_INVALID, wrong);
    const OnDevice device(in.launch);
    const cudaStream_t stream = stream_of(in.launch);
    if (in.v_table) cudaMemsetAsync(in.v_table, 0, levels.offsets[in.levels] * max(in.heads, 1) * in.features * sizeof(float), stream);
    if (in.heads) return hash_blend_backward(in, levels);
    if (!aligned(in.table, in.features) || !aligned(in.v_out, in.features) || !aligned(in.v_table, in.features)) {
        return fail(AV_INVALID, "hash: the table must be aligned to its rows");
    }
    const dim3 grid(blocks_for(in.N, HASH_THREADS), (unsigned)in.levels), block(HASH_THREADS);
    if (in.v_table) {
#define AV_CALL(F) launch(hash_table_kernel<F>, grid, block, stream, levels, in.N, in.positions, in.v_out, in.v_table)
        AV_BY_FEATURES(in.features, AV_CALL)
#undef AV_CALL
    }
    if (in.v_positions) {
#define AV_CALL(F) \
    launch(hash_position_kernel<F>, dim3(grid.x), block, stream, levels, in.N, in.positions, in.table, in.v_out, in.v_positions)
        AV_BY_FEATURES(in.features, AV_CALL)
#undef AV_CALL
    }
    return finish("hash backward");
}

int64_t av_hash_scratch(const AvHash*) { return 0; }

}  // extern "C"
