// An ensemble of hash tables collapsed into one, row by row in pieces of sixteen floats: bound by reading the ensemble once. The gradient to the
// weights is summed per chunk of rows and then over the chunks, in their order.
#pragma once
#include "hash_blend_ops.h"

namespace av {
inline namespace AV_NS {

constexpr int64_t HASH_TABLE_CHUNK = 4096;                     // rows of a task
constexpr int HASH_MOST_PIECES = AV_HASH_HEADS * 8 / 16;  // of a row

struct HashTables : AvHashTables {
    int64_t W;
    int pieces;
    F16 spread[HASH_MOST_PIECES];  // weights, as the row has them

    explicit HashTables(const AvHashTables& args) : AvHashTables(args), W((int64_t)heads * features), pieces((int)((W + 15) / 16)) {
        alignas(64) float lanes[16 * HASH_MOST_PIECES] = {};
        for (int64_t i = 0; i < W; ++i) lanes[i] = weights[i / features];
        for (int i = 0; i < pieces; ++i) spread[i] = load(lanes + 16 * i);
    }
    AV_INLINE int64_t chunks() const { return (rows + HASH_TABLE_CHUNK - 1) / HASH_TABLE_CHUNK; }
    AV_INLINE int filled(int i) const { return i + 1 < pieces || W % 16 == 0 ? 16 : (int)(W % 16); }
    AV_INLINE F16 piece(const float* row, int i) const { return filled(i) == 16 ? load(row + 16 * i) : load_part(row + 16 * i, filled(i)); }
};

template <int F>
static void hash_tables_features(const HashTables& call) {
    parallel_for(call.launch.threads, call.chunks(), [&](int64_t task, int) {
        const int64_t begin = task * HASH_TABLE_CHUNK, end = begin + HASH_TABLE_CHUNK < call.rows ? begin + HASH_TABLE_CHUNK : call.rows;
        for (int64_t first = begin; first < end; first += 16) {
            const int n = (int)(end - first < 16 ? end - first : 16);
            F16 lanes[16], out[F];
            for (int k = 0; k < 16; ++k) {
                const float* row = call.tables + (first + (k < n ? k : 0)) * call.W;
                lanes[k] = call.piece(row, 0) * call.spread[0];
                for (int i = 1; i < call.pieces; ++i) lanes[k] = fma_(call.piece(row, i), call.spread[i], lanes[k]);
            }
            transpose(lanes);
            for (int f = 0; f < F; ++f) {
                out[f] = lanes[f];
                for (int k = f + F; k < 16; k += F) out[f] += lanes[k];
            }
            store_rows<F>(call.out + first * F, n, out);
        }
    });
}

template <int F>
static void hash_tables_gradients(const HashTables& call) {
    float* sums = (float*)call.scratch;  // [chunks, pieces · 16]
    parallel_for(call.launch.threads, call.chunks(), [&](int64_t task, int) {
        const int64_t begin = task * HASH_TABLE_CHUNK, end = begin + HASH_TABLE_CHUNK < call.rows ? begin + HASH_TABLE_CHUNK : call.rows;
        F16 sum[HASH_MOST_PIECES];
        for (int i = 0; i < call.pieces; ++i) sum[i] = F16(0.0f);
        for (int64_t r = begin; r < end; ++r) {
            const F16 v = hash_repeat<F>(call.v_out + r * F);
            for (int i = 0; i < call.pieces; ++i) {
                if (call.v_weights) sum[i] = fma_(call.piece(call.tables + r * call.W, i), v, sum[i]);
                if (call.v_tables) store_part(call.v_tables + r * call.W + 16 * i, v * call.spread[i], call.filled(i));
            }
        }
        for (int i = 0; i < call.pieces && call.v_weights; ++i) store(sums + (task * call.pieces + i) * 16, sum[i]);
    });
    for (int h = 0; h < call.heads && call.v_weights; ++h) {
        double total = 0;
        for (int64_t task = 0; task < call.chunks(); ++task)
            for (int f = 0; f < F; ++f) total += sums[task * call.pieces * 16 + h * F + f];
        call.v_weights[h] = (float)total;
    }
}

static int32_t hash_tables_any(const AvHashTables& args, bool back) {
    const HashTables call(args);
    switch (args.features) {
        case 1: back ? hash_tables_gradients<1>(call) : hash_tables_features<1>(call); break;
        case 2: back ? hash_tables_gradients<2>(call) : hash_tables_features<2>(call); break;
        case 4: back ? hash_tables_gradients<4>(call) : hash_tables_features<4>(call); break;
        default: back ? hash_tables_gradients<8>(call) : hash_tables_features<8>(call);
    }
    return AV_OK;
}

static int32_t hash_tables(const AvHashTables* args) { return hash_tables_any(*args, false); }
static int32_t hash_tables_backward(const AvHashTables* args) { return hash_tables_any(*args, true); }
static int64_t hash_tables_scratch(const AvHashTables* args) {
    const int64_t chunks = (args->rows + HASH_TABLE_CHUNK - 1) / HASH_TABLE_CHUNK;
    return chunks * ((args->heads * args->features + 15) / 16) * 16 * (int64_t)sizeof(float);
}

}  // namespace AV_NS
}  // namespace av
