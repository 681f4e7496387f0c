// An ensemble of hash grids, blended per position: a row of the table holds the features of all heads side by side, so a corner is one run of
// memory for all of them. W = heads · F floats of a row go in pieces of sixteen; the weights are spread to as many once per call.
#pragma once
#include "hash_ops.h"

namespace av {
inline namespace AV_NS {

// Lane j: v[j mod F].
template <int F>
AV_INLINE F16 hash_repeat(const float* v) {
    alignas(64) float lanes[16];
    if (F == 1) return F16(*v);
    if (F == 2) {  // as integers, whose copies keep every bit
        typedef int64_t NativeL __attribute__((vector_size(AV_NATIVE * 4)));
        int64_t two;
        memcpy(&two, v, 8);
        const NativeL all = NativeL{} + two;
        for (int i = 0; i < 16; i += AV_NATIVE) memcpy(lanes + i, &all, sizeof all);
    } else {
        for (int i = 0; i < 16; i += F) memcpy(lanes + i, v, F * sizeof(float));
    }
    return load(lanes);
}

struct HashBlend : HashCall {
    int64_t W, pitch;  // floats of a row, and of a row of the spread weights
    float *by_level, *spread, *v_spread;

    explicit HashBlend(const AvHash& args) : HashCall(args), W((int64_t)heads * features), pitch((W + 15) / 16 * 16) {
        by_level = (float*)scratch;
        spread = by_level + levels * stride(features);
        v_spread = spread + N * pitch;
    }
    static int64_t floats(const AvHash& args) {
        const HashBlend call(args);
        return args.levels * call.stride(args.features) + call.N * call.pitch * (args.v_weights ? 2 : 1);
    }

    AV_INLINE F16 piece(const float* p, int64_t at) const { return W - at >= 16 ? load(p + at) : load_part(p + at, (int)(W - at)); }
    AV_INLINE void put(float* p, int64_t at, F16 a) const { store_part(p + at, a, W - at >= 16 ? 16 : (int)(W - at)); }
    AV_INLINE void ask(const float* rows, uint32_t row) const {
        for (int64_t at = 0; at < W; at += 16) __builtin_prefetch(rows + row * W + at);
    }

    template <class Use>
    AV_INLINE void each(const HashLevel& level, int64_t begin, int64_t end, const float* rows, Use&& use) const {
        level.each(
            positions, begin, end, [&](uint32_t low, uint32_t high) { ask(rows, low), ask(rows, high); }, use);
    }

    template <int F>
    void spread_weights() const {
        parallel_for(launch.threads, chunks(), [&](int64_t task, int) {
            for (int64_t n = task * HASH_CHUNK, last = end(n); n < last; ++n) {
                float* to = spread + n * pitch;
                for (int h = 0; h < heads; ++h)
                    for (int f = 0; f < F; ++f) to[h * F + f] = weights[n * heads + h];
                for (int64_t i = W; i < pitch; ++i) to[i] = 0;
            }
        });
    }
};

template <int F>
static void hash_blend_forward(const HashBlend& call) {
    call.spread_weights<F>();
    call.each_level_and_chunk([&](int l, int64_t begin, int64_t end) {
        const HashLevel level = call.level(l);
        const float* rows = call.table + level.first * call.W;
        float* to = call.by_level + l * call.stride(F);
        if (begin == 0) level.sweep(rows, call.W, call.N);
        F16 sums[16];
        for (int i = 0; i < 16; ++i) sums[i] = F16(0.0f);
        call.each(level, begin, end, rows, [&](int64_t n, const HashStage& s, int i) {
            const F16 x = s.fraction[0][i], y = s.fraction[1][i], z = s.fraction[2][i];
            F16 sum = 0.0f;
            for (int64_t at = 0; at < call.W; at += 16) {
                F16 edge[4];
                for (int c = 0; c < 4; ++c) {
                    const F16 low = call.piece(rows + s.low[c][i] * call.W, at), high = call.piece(rows + s.high[c][i] * call.W, at);
                    edge[c] = fma_(high - low, x, low);
                }
                const F16 near = fma_(edge[1] - edge[0], y, edge[0]), far = fma_(edge[3] - edge[2], y, edge[2]);
                sum = fma_(fma_(far - near, z, near), load(call.spread + n * call.pitch + at), sum);
            }
            sums[i & 15] = sum;
            if ((i & 15) == 15 || n + 1 == end) {  // lanes become positions
                F16 lanes[16], out[F];
                for (int k = 0; k < 16; ++k) lanes[k] = sums[k];
                transpose(lanes);
                for (int f = 0; f < F; ++f) {
                    out[f] = lanes[f];
                    for (int k = f + F; k < 16; k += F) out[f] += lanes[k];
                }
                store_rows<F>(to + (n - (i & 15)) * F, (i & 15) + 1, out);
            }
        });
    });
    hash_by_level<F, false>(call, call.out, call.by_level);
}

template <int F>
static void hash_blend_table(const HashBlend& call) {
    parallel_for(call.launch.threads, call.levels, [&](int64_t task, int) {
        const int l = call.levels - 1 - (int)task;
        const HashLevel level = call.level(l);
        float* rows = call.v_table + level.first * call.W;
        const float* v = call.by_level + l * call.stride(F);
        memset(rows, 0, (int64_t)level.rows * call.W * sizeof(float));
        call.each(level, 0, call.N, rows, [&](int64_t n, const HashStage& s, int i) {
            const F16 v_out = hash_repeat<F>(v + n * F);
            const float x = s.fraction[0][i], y = s.fraction[1][i], z = s.fraction[2][i];
            for (int64_t at = 0; at < call.W; at += 16) {
                const F16 v_row = v_out * load(call.spread + n * call.pitch + at);
                for (int c = 0; c < 4; ++c) {
                    const float w = (c & 1 ? y : 1 - y) * (c & 2 ? z : 1 - z);
                    float *low = rows + s.low[c][i] * call.W, *high = rows + s.high[c][i] * call.W;
                    call.put(low, at, fma_(v_row, F16(w * (1 - x)), call.piece(low, at)));
                    call.put(high, at, fma_(v_row, F16(w * x), call.piece(high, at)));
                }
            }
        });
    });
}

// Gradients to the weights and the positions, a chunk of positions through all levels.
template <int F>
static void hash_blend_inputs(const HashBlend& call) {
    const int64_t chunk = 256;
    parallel_for(call.launch.threads, (call.N + chunk - 1) / chunk, [&](int64_t task, int) {
        const int64_t begin = task * chunk, end = begin + chunk < call.N ? begin + chunk : call.N;
        float v_position[3 * chunk] = {};
        if (call.v_weights) memset(call.v_spread + begin * call.pitch, 0, (end - begin) * call.pitch * sizeof(float));
        for (int l = 0; l < call.levels; ++l) {
            const HashLevel level = call.level(l);
            const float *rows = call.table + level.first * call.W, *v = call.by_level + l * call.stride(F);
            call.each(level, begin, end, rows, [&](int64_t n, const HashStage& s, int i) {
                const F16 v_out = hash_repeat<F>(v + n * F), x = s.fraction[0][i], y = s.fraction[1][i], z = s.fraction[2][i];
                F16 along[3] = {0.0f, 0.0f, 0.0f};
                for (int64_t at = 0; at < call.W; at += 16) {
                    F16 edge[4], along_x[4];
                    for (int c = 0; c < 4; ++c) {
                        const F16 low = call.piece(rows + s.low[c][i] * call.W, at);
                        along_x[c] = call.piece(rows + s.high[c][i] * call.W, at) - low;
                        edge[c] = fma_(along_x[c], x, low);
                    }
                    const F16 near_y = edge[1] - edge[0], far_y = edge[3] - edge[2];
                    const F16 near = fma_(near_y, y, edge[0]), along_z = fma_(far_y, y, edge[2]) - near;
                    if (call.v_weights) {
                        float* sum = call.v_spread + n * call.pitch + at;
                        store(sum, fma_(fma_(along_z, z, near), v_out, load(sum)));
                    }
                    if (call.v_positions) {
                        const F16 v_row = v_out * load(call.spread + n * call.pitch + at);
                        const F16 near_x = fma_(along_x[1] - along_x[0], y, along_x[0]), far_x = fma_(along_x[3] - along_x[2], y, along_x[2]);
                        along[0] = fma_(v_row, fma_(far_x - near_x, z, near_x), along[0]);
                        along[1] = fma_(v_row, fma_(far_y - near_y, z, near_y), along[1]);
                        along[2] = fma_(v_row, along_z, along[2]);
                    }
                }
                if (call.v_positions)
                    for (int a = 0; a < 3; ++a) v_position[3 * (n - begin) + a] += level.scale * sum(along[a]);
            });
        }
        for (int64_t n = begin; n < end && call.v_weights; ++n) {
            for (int h = 0; h < call.heads; ++h) {
                float total = 0;
                for (int f = 0; f < F; ++f) total += call.v_spread[n * call.pitch + h * F + f];
                call.v_weights[n * call.heads + h] = total;
            }
        }
        for (int64_t i = 3 * begin; i < 3 * end && call.v_positions; ++i) {
            const float p = call.positions[i];
            call.v_positions[i] = p >= 0.0f && p <= 1.0f ? v_position[i - 3 * begin] : 0.0f;
        }
    });
}

template <int F>
static void hash_blend_backward(const HashBlend& call) {
    hash_by_level<F, true>(call, const_cast<float*>(call.v_out), call.by_level);
    call.spread_weights<F>();
    if (call.v_table) hash_blend_table<F>(call);
    if (call.v_weights || call.v_positions) hash_blend_inputs<F>(call);
}

static int64_t hash_scratch(const AvHash* args) {
    int64_t floats;
    if (args->heads) {
        floats = HashBlend::floats(*args);
    } else {
        const HashCall call(*args);
        floats = call.levels * (call.stride(call.features) + (call.v_positions ? call.stride(3) : 0));
    }
    return floats * (int64_t)sizeof(float);
}

template <int F>
static void hash_features(const AvHash& args, bool back) {
    if (!args.heads) {
        back ? hash_backward_features<F>(HashCall(args)) : hash_forward_features<F>(HashCall(args));
    } else {
        back ? hash_blend_backward<F>(HashBlend(args)) : hash_blend_forward<F>(HashBlend(args));
    }
}

static int32_t hash_any(const AvHash& args, bool back) {
    switch (args.features) {
        case 1: hash_features<1>(args, back); break;
        case 2: hash_features<2>(args, back); break;
        case 4: hash_features<4>(args, back); break;
        default: hash_features<8>(args, back);
    }
    return AV_OK;
}

static int32_t hash_encode(const AvHash* args) { return hash_any(*args, false); }
static int32_t hash_encode_backward(const AvHash* args) { return hash_any(*args, true); }

}  // namespace AV_NS
}  // namespace av
