// Multi-resolution hash grid: include/hash.h for sixteen positions at a time. One level after another, so that its rows stay in the
// cache; on the way back each level belongs to one task, which adds in the order of the positions: the same bits on any number of threads.
#pragma once
#include <string.h>

#include "../include/abi.h"
#include "../include/hash.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

constexpr int64_t HASH_CHUNK = 2048;

template <int F>
struct HashRow {
    typedef float type __attribute__((vector_size(4 * F), aligned(4)));
};
template <>
struct HashRow<1> {
    typedef float type;
};

// Rows and weights of the eight corners for sixteen positions, corner by corner. Plain loops over lanes: they vectorise.
struct HashBlock {
    alignas(64) uint32_t row[8][16];
    alignas(64) float weight[8][16];
    alignas(64) float fraction[3][16];
};

AV_INLINE void hash_block(const float* positions, int n, float scale, uint32_t resolution, uint32_t rows, HashBlock& b) {
    float(&f)[3][16] = b.fraction;
    alignas(64) uint32_t cell[3][16];
    for (int a = 0; a < 3; ++a) {
        for (int i = 0; i < 16; ++i) {
            const float x = min_(max_(positions[3 * (i < n ? i : 0) + a], 0.0f), 1.0f);
            const float p = x * scale + 0.5f;
            cell[a][i] = (uint32_t)(int32_t)p;  // p > 0: truncation is floor
            f[a][i] = p - (float)(int32_t)cell[a][i];
        }
    }
    const bool dense = (uint64_t)resolution * resolution * resolution <= rows, masked = (rows & (rows - 1)) == 0;
    const uint32_t sy = dense ? resolution : 2654435761u, sz = dense ? resolution * resolution : 805459861u;
    for (int c = 0; c < 8; ++c) {
        for (int i = 0; i < 16; ++i) {
            const uint32_t x = cell[0][i] + (c & 1), y = (cell[1][i] + (c >> 1 & 1)) * sy, z = (cell[2][i] + (c >> 2)) * sz;
            b.row[c][i] = dense ? x + y + z : x ^ y ^ z;
            const float wx = c & 1 ? f[0][i] : 1 - f[0][i], wy = c & 2 ? f[1][i] : 1 - f[1][i], wz = c & 4 ? f[2][i] : 1 - f[2][i];
            b.weight[c][i] = wx * wy * wz;
        }
        if (masked) {
            for (int i = 0; i < 16; ++i) b.row[c][i] &= rows - 1;
        } else {
            for (int i = 0; i < 16; ++i) b.row[c][i] %= rows;
        }
    }
}

struct HashCall {
    int64_t N;
    int levels, threads;
    const float* scales;
    const int32_t* resolutions;
    const int64_t* offsets;
    const float* positions;

    // Asks for the table's rows of a block: they are all over the memory, and a whole block of misses at once costs little more
    // than one.
    template <int F>
    AV_INLINE static void prefetch(const float* rows, const HashBlock& b) {
        for (int c = 0; c < 8; c += 2)  // the corner at x + 1 is a neighbour in memory, mostly
            for (int i = 0; i < 16; ++i) __builtin_prefetch(rows + (int64_t)b.row[c][i] * F);
    }

    AV_INLINE void block(int level, int64_t first, int64_t end, HashBlock& b) const {
        hash_block(positions + 3 * first, (int)(end - first < 16 ? end - first : 16), scales[level], (uint32_t)resolutions[level],
                   (uint32_t)(offsets[level + 1] - offsets[level]), b);
    }
};

template <int F>
static void hash_forward_features(const HashCall& call, const float* table, float* out) {
    typedef typename HashRow<F>::type Row;
    const int64_t chunks = (call.N + HASH_CHUNK - 1) / HASH_CHUNK, stride = (int64_t)call.levels * F;
    parallel_for(call.threads, chunks * call.levels, [&](int64_t task, int) {
        const int level = (int)(task / chunks);
        const int64_t begin = task % chunks * HASH_CHUNK, end = begin + HASH_CHUNK < call.N ? begin + HASH_CHUNK : call.N;
        const float* rows = table + call.offsets[level] * F;
        HashBlock blocks[2];
        call.block(level, begin, end, blocks[0]);
        for (int64_t first = begin; first < end; first += 16) {
            const HashBlock& b = blocks[((first - begin) / 16) & 1];
            HashBlock& next = blocks[((first - begin) / 16 + 1) & 1];
            if (first + 16 < end) {
                call.block(level, first + 16, end, next);
                HashCall::prefetch<F>(rows, next);
            }
            const int n = (int)(end - first < 16 ? end - first : 16);
            for (int i = 0; i < n; ++i) {
                Row sum = {};
                for (int c = 0; c < 8; ++c) {
                    Row row;
                    memcpy(&row, rows + (int64_t)b.row[c][i] * F, sizeof row);
                    sum += row * b.weight[c][i];
                }
                memcpy(out + (first + i) * stride + level * F, &sum, sizeof sum);
            }
        }
    });
}

template <int F>
static void hash_table_features(const HashCall& call, const float* v_out, float* v_table) {
    typedef typename HashRow<F>::type Row;
    const int64_t stride = (int64_t)call.levels * F;
    parallel_for(call.threads, call.levels, [&](int64_t task, int) {
        const int level = call.levels - 1 - (int)task;  // the large levels first
        float* rows = v_table + call.offsets[level] * F;
        memset(rows, 0, (call.offsets[level + 1] - call.offsets[level]) * F * sizeof(float));
        HashBlock blocks[2];
        if (call.N > 0) call.block(level, 0, call.N, blocks[0]);
        for (int64_t first = 0; first < call.N; first += 16) {
            const HashBlock& b = blocks[(first / 16) & 1];
            HashBlock& next = blocks[(first / 16 + 1) & 1];
            if (first + 16 < call.N) {
                call.block(level, first + 16, call.N, next);
                HashCall::prefetch<F>(rows, next);
            }
            const int n = (int)(call.N - first < 16 ? call.N - first : 16);
            for (int i = 0; i < n; ++i) {
                Row v;
                memcpy(&v, v_out + (first + i) * stride + level * F, sizeof v);
                for (int c = 0; c < 8; ++c) {
                    float* at = rows + (int64_t)b.row[c][i] * F;
                    Row row;
                    memcpy(&row, at, sizeof row);
                    row += v * b.weight[c][i];
                    memcpy(at, &row, sizeof row);
                }
            }
        }
    });
}

// ∂weight/∂position: per axis, the differences of the two corners along it, weighted by the other two axes.
template <int F>
static void hash_position_features(const HashCall& call, const float* table, const float* v_out, float* v_positions) {
    const int64_t chunks = (call.N + HASH_CHUNK - 1) / HASH_CHUNK, stride = (int64_t)call.levels * F;
    parallel_for(call.threads, chunks, [&](int64_t task, int) {
        const int64_t begin = task * HASH_CHUNK, end = begin + HASH_CHUNK < call.N ? begin + HASH_CHUNK : call.N;
        memset(v_positions + 3 * begin, 0, 3 * (end - begin) * sizeof(float));
        HashBlock b;
        alignas(64) float along[8][16], v_axis[3][16];
        for (int level = 0; level < call.levels; ++level) {
            const float *rows = table + call.offsets[level] * F, scale = call.scales[level];
            for (int64_t first = begin; first < end; first += 16) {
                call.block(level, first, end, b);
                const int n = (int)(end - first < 16 ? end - first : 16);
                for (int c = 0; c < 8; ++c) {  // ∂L/∂weight of each corner
                    for (int i = 0; i < 16; ++i) {
                        const float *row = rows + (int64_t)b.row[c][i] * F, *v = v_out + (first + (i < n ? i : 0)) * stride + level * F;
                        float total = 0.0f;
                        for (int f = 0; f < F; ++f) total += row[f] * v[f];
                        along[c][i] = total;
                    }
                }
                const auto lerp = [](float low, float high, float f) { return low + (high - low) * f; };
                for (int i = 0; i < 16; ++i) {
                    const float x = b.fraction[0][i], y = b.fraction[1][i], z = b.fraction[2][i];
                    float edge[4];  // the differences along x at the four corners (y, z)
                    for (int k = 0; k < 4; ++k) edge[k] = along[2 * k + 1][i] - along[2 * k][i];
                    v_axis[0][i] = scale * lerp(lerp(edge[0], edge[1], y), lerp(edge[2], edge[3], y), z);
                    float plane[4];  // interpolated along x
                    for (int k = 0; k < 4; ++k) plane[k] = lerp(along[2 * k][i], along[2 * k + 1][i], x);
                    v_axis[1][i] = scale * lerp(plane[1] - plane[0], plane[3] - plane[2], z);
                    v_axis[2][i] = scale * (lerp(plane[2], plane[3], y) - lerp(plane[0], plane[1], y));
                }
                for (int i = 0; i < n; ++i) {
                    for (int a = 0; a < 3; ++a) {
                        const float p = call.positions[3 * (first + i) + a];
                        v_positions[3 * (first + i) + a] += p >= 0.0f && p <= 1.0f ? v_axis[a][i] : 0.0f;
                    }
                }
            }
        }
    });
}

static int32_t hash_forward(const AvLaunch* launch, int64_t N, int32_t levels, int32_t features, const float* scales,
                            const int32_t* resolutions, const int64_t* offsets, const float* positions, const float* table,
                            float* out) {
    const HashCall call = {N, levels, launch->threads, scales, resolutions, offsets, positions};
    switch (features) {
        case 1: hash_forward_features<1>(call, table, out); break;
        case 2: hash_forward_features<2>(call, table, out); break;
        case 4: hash_forward_features<4>(call, table, out); break;
        default: hash_forward_features<8>(call, table, out); break;
    }
    return AV_OK;
}

template <int F>
static void hash_backward_features(const HashCall& call, const float* table, const float* v_out, float* v_table, float* v_positions) {
    if (v_table) hash_table_features<F>(call, v_out, v_table);
    if (v_positions) hash_position_features<F>(call, table, v_out, v_positions);
}

static int32_t hash_backward(const AvLaunch* launch, int64_t N, int32_t levels, int32_t features, const float* scales,
                             const int32_t* resolutions, const int64_t* offsets, const float* positions, const float* table,
                             const float* v_out, float* v_table, float* v_positions) {
    const HashCall call = {N, levels, launch->threads, scales, resolutions, offsets, positions};
    switch (features) {
        case 1: hash_backward_features<1>(call, table, v_out, v_table, v_positions); break;
        case 2: hash_backward_features<2>(call, table, v_out, v_table, v_positions); break;
        case 4: hash_backward_features<4>(call, table, v_out, v_table, v_positions); break;
        default: hash_backward_features<8>(call, table, v_out, v_table, v_positions); break;
    }
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
