// Instances: which Gaussians touch which tile, each tile's list sorted front to back.
#include "splat.cuh"

namespace av {

constexpr int OFFSET_THREADS = 256;
constexpr int SCATTER_THREADS = 128;
constexpr int SORT_THREADS = 256;
constexpr int SORT_KEYS = 4096;  // 32 KiB of shared memory; longer lists exchange through global memory

// A stretch of the instance list for every tile. Stretches follow each other in no particular order; nothing depends on it.
__global__ void __launch_bounds__(OFFSET_THREADS)
    offsets_kernel(int all_tiles, int capacity, ForwardScratch scratch, int2* ranges, int* class_sizes, int* order) {
    AV_SHARED int warp_sums[OFFSET_THREADS / 32];
    AV_SHARED unsigned long long base;
    const int tile = blockIdx.x * OFFSET_THREADS + threadIdx.x;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int count = tile < all_tiles ? scratch.counts[tile] : 0;
    int sum = count;
    for (int step = 1; step < 32; step *= 2) {
        const int below = __shfl_up_sync(FULL, sum, step);
        if (lane >= step) sum += below;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        int all = 0;
        for (int w = 0; w < OFFSET_THREADS / 32; ++w) {
            const int here = warp_sums[w];
            warp_sums[w] = all;
            all += here;
        }
        base = atomicAdd(&scratch.total[0], (unsigned long long)all);
    }
    __syncthreads();
    if (tile >= all_tiles) return;
    const unsigned long long start = base + warp_sums[warp] + sum - count;
    const int first = start < (unsigned long long)capacity ? (int)start : capacity;
    const int last = start + count < (unsigned long long)capacity ? (int)(start + count) : capacity;
    ranges[tile] = make_int2(first, last);
    scratch.cursors[tile] = first;
    const int load = min(32 - __clz(last - first), CLASSES - 1);  // 0 for an empty tile
    order[(int64_t)load * all_tiles + atomicAdd(&class_sizes[load], 1)] = tile;
}

__global__ void __launch_bounds__(SCATTER_THREADS)
    scatter_kernel(Grid grid, int capacity, const Record* records, ForwardScratch scratch, const int2* ranges, int32_t* counters) {
    const int64_t n = (int64_t)blockIdx.x * SCATTER_THREADS + threadIdx.x;
    const int camera = blockIdx.y;
    if (n == 0 && camera == 0) {
        const unsigned long long needed = scratch.total[0];
        counters[0] = needed < 0x7fffffffull ? (int)needed : 0x7fffffff;
        counters[1] = needed > (unsigned long long)capacity;
        counters[2] = scratch.total[1] < 0x7fffffffull ? (int)scratch.total[1] : 0x7fffffff;
        counters[3] = 0;
    }
    ushort4 box = make_ushort4(0, 0, 0, 0);
    if (n < grid.N) box = scratch.boxes[camera * grid.N + n];
    const bool any = box.z > box.x && box.w > box.y;
    float4 a = make_float4(0, 0, 0, 0), b = a;
    if (any) a = records[camera * grid.N + n].a, b = records[camera * grid.N + n].b;
    const unsigned long long key = ((unsigned long long)__float_as_uint(b.w) << 32) | (unsigned long long)(uint32_t)n;
    int* cursors = scratch.cursors + (int64_t)camera * grid.tiles;
    const int2* stretches = ranges + (int64_t)camera * grid.tiles;
    unsigned long long* keys = scratch.keys;
    for_each_tile(grid, any, box, a, b, key, [=](int tile, unsigned long long k) {
        const int slot = atomicAdd(&cursors[tile], 1);
        if (slot < stretches[tile].y) keys[slot] = k;
    });
}

template <class Array>
__device__ inline void order_pair(Array keys, int i, int j) {
    const unsigned long long a = keys[i], b = keys[j];
    if (b < a) keys[i] = b, keys[j] = a;
}

// Bitonic sorting network in which every comparison is ascending: a missing partner is as good as an infinite one, so
// the length needs no padding. Comparisons are dealt out so that each warp keeps to a stretch of its own for as
// long as the distances allow, and then needs no block barrier. Sorts (first = 2) or finishes a merge (first > 2: the
// distances below first / 2 of one level).
__device__ inline void sort_shared(unsigned long long* keys, int count, int pairs) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int own = max(32, pairs / (SORT_THREADS / 32));  // comparisons of a warp
    const int begin = warp * own, end = min(begin + own, pairs);
    for (int half = 1; half < count; half *= 2) {
        for (int t = begin + lane; t < end; t += 32) {  // mirror
            const int base = t / half * (2 * half), offset = t % half;
            const int j = base + 2 * half - 1 - offset;
            if (j < count) order_pair(keys, base + offset, j);
        }
        for (int distance = half / 2; distance > 0; distance /= 2) {
            if (2 * distance <= own) __syncwarp();
            else __syncthreads();
            for (int t = begin + lane; t < end; t += 32) {
                const int i = t / distance * (2 * distance) + t % distance;
                if (i + distance < count) order_pair(keys, i, i + distance);
            }
        }
        if (2 * half <= own) __syncwarp();
        else __syncthreads();
    }
}

__device__ inline void merge_shared(unsigned long long* keys, int count) {
    for (int distance = SORT_KEYS / 2; distance > 0; distance /= 2) {
        for (int t = threadIdx.x; t < SORT_KEYS / 2; t += SORT_THREADS) {
            const int i = t / distance * (2 * distance) + t % distance;
            if (i + distance < count) order_pair(keys, i, i + distance);
        }
        __syncthreads();
    }
}

__global__ void __launch_bounds__(SORT_THREADS)
    sort_kernel(int64_t all_tiles, int2* ranges, const int* cursors, const int* class_sizes, const int* order,
                unsigned long long* all_keys, uint32_t* ids) {
    AV_SHARED unsigned long long shared[SORT_KEYS];
    const int tile = tile_of_block(class_sizes, order, all_tiles, blockIdx.x);
    const int2 range = ranges[tile];
    const int count = min(cursors[tile], range.y) - range.x;  // never more than was written, whatever was counted before
    if (count != range.y - range.x) {
        __syncthreads();  // until all have read the range
        if (threadIdx.x == 0) ranges[tile].y = range.x + count;
    }
    if (count == 0) return;
    unsigned long long* keys = all_keys + range.x;
    if (count <= SORT_KEYS) {
        for (int i = threadIdx.x; i < count; i += SORT_THREADS) shared[i] = keys[i];
        __syncthreads();
        const int pairs = count > 1 ? 1 << (31 - __clz(count - 1)) : 1;  // half of the next power of two
        sort_shared(shared, count, pairs);
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += SORT_THREADS) ids[range.x + i] = (uint32_t)shared[i];
        return;
    }
    // First each piece that fits into shared memory, then the levels above: far exchanges in global memory, near ones in pieces.
    for (int piece = 0; piece < count; piece += SORT_KEYS) {
        const int size = min(SORT_KEYS, count - piece);
        for (int i = threadIdx.x; i < size; i += SORT_THREADS) shared[i] = keys[piece + i];
        __syncthreads();
        sort_shared(shared, size, SORT_KEYS / 2);
        __syncthreads();
        for (int i = threadIdx.x; i < size; i += SORT_THREADS) keys[piece + i] = shared[i];
        __syncthreads();
    }
    for (int64_t half = SORT_KEYS; half < count; half *= 2) {
        const int64_t pairs = (count + 2 * half - 1) / (2 * half) * half;
        for (int64_t t = threadIdx.x; t < pairs; t += SORT_THREADS) {
            const int64_t base = t / half * (2 * half), offset = t % half, j = base + 2 * half - 1 - offset;
            if (j < count) order_pair(keys, (int)(base + offset), (int)j);
        }
        __syncthreads();
        for (int64_t distance = half / 2; distance >= SORT_KEYS; distance /= 2) {
            for (int64_t t = threadIdx.x; t < pairs; t += SORT_THREADS) {
                const int64_t i = t / distance * (2 * distance) + t % distance;
                if (i + distance < count) order_pair(keys, (int)i, (int)(i + distance));
            }
            __syncthreads();
        }
        for (int piece = 0; piece < count; piece += SORT_KEYS) {
            const int size = min(SORT_KEYS, count - piece);
            for (int i = threadIdx.x; i < size; i += SORT_THREADS) shared[i] = keys[piece + i];
            __syncthreads();
            merge_shared(shared, size);
            for (int i = threadIdx.x; i < size; i += SORT_THREADS) keys[piece + i] = shared[i];
            __syncthreads();
        }
    }
    for (int i = threadIdx.x; i < count; i += SORT_THREADS) ids[range.x + i] = (uint32_t)keys[i];
}

void launch_bins(const Grid& grid, int64_t capacity, const Saved& saved, const ForwardScratch& scratch, int32_t* counters,
                 cudaStream_t stream) {
    const int64_t tiles = grid.all_tiles();
    launch(offsets_kernel, dim3(blocks_for(tiles, OFFSET_THREADS)), dim3(OFFSET_THREADS), stream, (int)tiles, (int)capacity,
           scratch, saved.ranges, saved.class_sizes, saved.order);
    launch(scatter_kernel, dim3(blocks_for(grid.N, SCATTER_THREADS), (unsigned)grid.C), dim3(SCATTER_THREADS), stream, grid,
           (int)capacity, saved.records, scratch, saved.ranges, counters);
    launch(sort_kernel, dim3((unsigned)tiles), dim3(SORT_THREADS), stream, tiles, saved.ranges, scratch.cursors,
           saved.class_sizes, saved.order, scratch.keys, saved.ids);
}

}  // namespace av
