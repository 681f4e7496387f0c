// An ensemble of hash tables collapsed into one: a warp per row, a lane for every 32nd float of it. The gradient to the weights: a block sums
// over a chunk of rows, each thread in one column, and adds once per head.
#include "hash.cuh"

namespace av {

constexpr int TABLE_CHUNK = 2048;  // rows of a block

template <int FEATURES>
__global__ void __launch_bounds__(HASH_THREADS)
    hash_tables_kernel(int64_t rows, int width, const float* tables, const float* weights, float* out) {
    const int64_t row = ((int64_t)blockIdx.x * HASH_THREADS + threadIdx.x) / 32;
    const int lane = threadIdx.x & 31;
    if (row >= rows) return;  // whole warps
    float sum = 0;
    for (int at = lane; at < width; at += 32) sum = fmaf(weights[at / FEATURES], tables[row * width + at], sum);
    for (int bit = 16; bit >= FEATURES; bit /= 2) sum += __shfl_xor_sync(FULL, sum, bit);
    if (lane < FEATURES) out[row * FEATURES + lane] = sum;
}

template <int FEATURES>
__global__ void __launch_bounds__(HASH_THREADS)
    hash_tables_gradient_kernel(int64_t rows, int width, const float* tables, const float* weights, const float* v_out, float* v_tables, float* v_weights) {
    AV_SHARED float sums[AV_HASH_HEADS];
    if (threadIdx.x < AV_HASH_HEADS) sums[threadIdx.x] = 0;
    __syncthreads();
    const int64_t begin = (int64_t)blockIdx.x * TABLE_CHUNK, end = begin + TABLE_CHUNK < rows ? begin + TABLE_CHUNK : rows;
    const int columns = width < HASH_THREADS ? width : HASH_THREADS, together = HASH_THREADS / columns;  // rows at a time
    for (int first = 0; first < width; first += columns) {
        const int at = first + threadIdx.x % columns;
        if (at >= width || (int)threadIdx.x >= columns * together) continue;
        const float weight = weights[at / FEATURES];
        float sum = 0;
        for (int64_t row = begin + threadIdx.x / columns; row < end; row += together) {
            const float v = v_out[row * FEATURES + at % FEATURES];
            if (v_weights) sum = fmaf(tables[row * width + at], v, sum);
            if (v_tables) v_tables[row * width + at] = weight * v;
        }
        if (v_weights) atomicAdd(&sums[at / FEATURES], sum);
    }
    __syncthreads();
    if (v_weights && (int)threadIdx.x < width / FEATURES) atomicAdd(&v_weights[threadIdx.x], sums[threadIdx.x]);
}

static const char* wrong_tables(const AvHashTables& in) {
    if (in.features != 1 && in.features != 2 && in.features != 4 && in.features != 8) return "hash tables: features per level must be 1, 2, 4 or 8";
    return in.heads < 1 || in.heads > AV_HASH_HEADS ? "hash tables: 1 to 64 heads" : nullptr;
}

}  // namespace av

extern "C" {

int32_t av_hash_tables(const AvHashTables* args) {
    using namespace av;
    const AvHashTables& in = *args;
    if (const char* wrong = wrong_tables(in)) return fail(AV_INVALID, wrong);
    const OnDevice device(in.launch);
    const dim3 grid(blocks_for(in.rows * 32, HASH_THREADS)), block(HASH_THREADS);
#define AV_CALL(F) launch(hash_tables_kernel<F>, grid, block, stream_of(in.launch), in.rows, in.heads * F, in.tables, in.weights, in.out)
    AV_BY_FEATURES(in.features, AV_CALL)
#undef AV_CALL
    return finish("hash tables");
}

int32_t av_hash_tables_backward(const AvHashTables* args) {
    using namespace av;
    const AvHashTables& in = *args;
    if (const char* wrong = wrong_tables(in)) return fail(AV_INVALID, wrong);
    const OnDevice device(in.launch);
    if (in.v_weights) cudaMemsetAsync(in.v_weights, 0, in.heads * sizeof(float), stream_of(in.launch));
    const dim3 grid(blocks_for(in.rows, TABLE_CHUNK)), block(HASH_THREADS);
#define AV_CALL(F)                                                                                                                     \
    launch(hash_tables_gradient_kernel<F>, grid, block, stream_of(in.launch), in.rows, in.heads * F, in.tables, in.weights, in.v_out, \
           in.v_tables, in.v_weights)
    AV_BY_FEATURES(in.features, AV_CALL)
#undef AV_CALL
    return finish("hash tables backward");
}

int64_t av_hash_tables_scratch(const AvHashTables*) { return 0; }

}  // extern "C"
