// Multi-resolution hash grid: include/hash.h for sixteen positions at a time, one level after another, so that a level's rows stay in the
// cache. What is read or written per position and level (features, their gradients) lies level by level in a scratch buffer meanwhile: in
// the caller's layout, every level would pass through all of it for a few bytes of each line.
//
// The rows of a stage of positions are computed, and asked for, before those of the stage before are used: they are all over the memory,
// and a whole stage of misses at once costs little more than one. On the way back each level belongs to one task, which adds in the order of
// the positions: the same bits on any number of threads.
#pragma once
#include <string.h>

#include "../include/abi.h"
#include "../include/hash.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

constexpr int64_t HASH_CHUNK = 2048;  // positions of a task
constexpr int HASH_STAGE = 32;        // positions whose rows are asked for at once

typedef float Lanes4 __attribute__((vector_size(16)));
typedef double Halves2 __attribute__((vector_size(16)));
typedef uint32_t NativeU __attribute__((vector_size(AV_NATIVE * 4)));

// The rows of the corners at x and at x + 1, for the four corners (y, z); where the position lies between them.
struct HashStage {
    alignas(64) uint32_t low[4][HASH_STAGE], high[4][HASH_STAGE];
    alignas(64) float fraction[3][HASH_STAGE];
    int n;  // positions
};

// One level of a grid.
struct HashLevel {
    float scale;
    uint32_t resolution, rows;
    int64_t first;  // row of the table
    enum Kind { DENSE, MASKED, ANY } kind;

    HashLevel(float scale, int32_t resolution, int64_t first, int64_t end)
        : scale(scale), resolution((uint32_t)resolution), rows((uint32_t)(end - first)), first(first) {
        const uint64_t R = this->resolution;
        const bool dense = R * R * R <= rows, masked = (rows & (rows - 1)) == 0;
        // The last corner of a dense level lies at most one turn past its rows, and a compare takes it back.
        kind = dense && scale + 0.5f < R && R * (1 + R + R * R) < 2ull * rows && rows < 0x40000000u ? DENSE : !dense && masked ? MASKED : ANY;
    }

    template <int KIND>
    AV_INLINE void native(int at, const NativeU (&cell)[3], HashStage& s) const {
        const uint32_t sy = KIND == DENSE ? resolution : 2654435761u, sz = KIND == DENSE ? resolution * resolution : 805459861u;
        const NativeU y[2] = {cell[1] * sy, cell[1] * sy + sy}, z[2] = {cell[2] * sz, cell[2] * sz + sz};
        for (int c = 0; c < 4; ++c) {
            NativeU low, high;
            if (KIND == DENSE) {
                low = y[c & 1] + z[c >> 1] + cell[0], high = low + 1;
                low = low < rows ? low : low - rows, high = high < rows ? high : high - rows;
            } else {
                const NativeU hash = y[c & 1] ^ z[c >> 1];
                low = (hash ^ cell[0]) & (rows - 1), high = (hash ^ (cell[0] + 1)) & (rows - 1);
            }
            memcpy(&s.low[c][at], &low, sizeof low), memcpy(&s.high[c][at], &high, sizeof high);
        }
    }

    // Sixteen positions of a stage; beyond n the first again.
    template <int KIND>
    AV_INLINE void sixteen(const float* positions, int n, int at, HashStage& s) const {
        F16 x[3];
        load_rows<3>(positions, n, x);
        alignas(64) float p[3][16];
        for (int a = 0; a < 3; ++a) store(p[a], fma_(min_(max_(x[a], F16(0.0f)), F16(1.0f)), F16(scale), F16(0.5f)));
        for (int i = 0; i < 16; i += AV_NATIVE) {
            NativeU cell[3];
            for (int a = 0; a < 3; ++a) {
                NativeF v;
                memcpy(&v, p[a] + i, sizeof v);
                const NativeI whole = __builtin_convertvector(v, NativeI);  // v > 0: truncation is floor
                v -= __builtin_convertvector(whole, NativeF);
                memcpy(&s.fraction[a][at + i], &v, sizeof v);
                cell[a] = (NativeU)whole;
            }
            if (KIND != ANY) {
                native<KIND>(at + i, cell, s);
            } else {
                for (int l = 0; l < AV_NATIVE; ++l)
                    for (int c = 0; c < 4; ++c)
                        for (int b = 0; b < 2; ++b)
                            (b ? s.high : s.low)[c][at + i + l] =
                                hash_row(cell[0][l] + b, cell[1][l] + (c & 1), cell[2][l] + (c >> 1), resolution, rows);
            }
        }
    }

    template <int KIND, class Ask>
    AV_INLINE void fill(const float* positions, int64_t n, Ask&& ask, HashStage& s) const {
        s.n = (int)(n < HASH_STAGE ? n : HASH_STAGE);
        for (int at = 0; at < s.n; at += 16) sixteen<KIND>(positions + 3 * at, s.n - at < 16 ? s.n - at : 16, at, s);
        for (int c = 0; c < 4; ++c)
            for (int i = 0; i < s.n; ++i) ask(s.low[c][i], s.high[c][i]);
    }

    template <int KIND, class Ask, class Use>
    AV_INLINE void run(const float* positions, int64_t begin, int64_t end, Ask&& ask, Use&& use) const {
        if (begin >= end) return;
        HashStage stages[2];
        fill<KIND>(positions + 3 * begin, end - begin, ask, stages[0]);
        for (int64_t first = begin, k = 0; first < end; first += HASH_STAGE, k ^= 1) {
            const int64_t next = first + HASH_STAGE;
            if (next < end) fill<KIND>(positions + 3 * next, end - next, ask, stages[k ^ 1]);
            const HashStage& s = stages[k];
            for (int i = 0; i < s.n; ++i) use(first + i, s, i);
        }
    }

    // For the positions [begin, end): asks for two rows, neighbours in memory mostly, four times per position and well ahead; calls
    // use(position, stage, its index there) in the positions' order.
    template <class Ask, class Use>
    AV_INLINE void each(const float* positions, int64_t begin, int64_t end, Ask&& ask, Use&& use) const {
        switch (kind) {
            case DENSE: run<DENSE>(positions, begin, end, ask, use); break;
            case MASKED: run<MASKED>(positions, begin, end, ask, use); break;
            default: run<ANY>(positions, begin, end, ask, use);
        }
    }
    template <int F, class Use>
    AV_INLINE void each_narrow(const float* positions, int64_t begin, int64_t end, const float* rows_of_level, Use&& use) const {
        each(positions, begin, end, [&](uint32_t low, uint32_t) { __builtin_prefetch(rows_of_level + (int64_t)low * F); }, use);
    }

    // Reads all rows once, in their order, so that they come to the cache in streams: random reads from memory take four times as long per
    // line. Pays when the positions will touch half of a level that the cache next to the core does not hold and the shared one does:
    // four to five lines each, or all pieces of eight wide rows.
    void sweep(const float* rows_of_level, int64_t width, int64_t N) const {
        const int64_t bytes = (int64_t)rows * width * (int64_t)sizeof(float), lines = width < 16 ? 8 : (width + 15) / 16 * 16;
        if (bytes < (1 << 19) || bytes > (1 << 24) || N * lines * 64 < bytes) return;
        const char* p = (const char*)rows_of_level;
        for (int64_t i = 0; i + 256 <= bytes; i += 256) {
            int a = *(const int*)(p + i), b = *(const int*)(p + i + 64), c = *(const int*)(p + i + 128), d = *(const int*)(p + i + 192);
            asm volatile("" ::"r"(a), "r"(b), "r"(c), "r"(d));
        }
    }
};

// The rows at x and x + 1 side by side: 2F floats.
template <int F>
struct HashPair {
    typedef float Half __attribute__((vector_size(4 * F), aligned(4)));
    Half low, high;
    AV_INLINE HashPair(const float* a, const float* b) { memcpy(&low, a, sizeof low), memcpy(&high, b, sizeof high); }
    AV_INLINE HashPair(Half low, Half high) : low(low), high(high) {}
    AV_INLINE void store(float* a, float* b) const { memcpy(a, &low, sizeof low), memcpy(b, &high, sizeof high); }
    AV_INLINE static HashPair spread(const float* v, float x) {
        Half h;
        memcpy(&h, v, sizeof h);
        return {h * (1 - x), h * x};
    }
    AV_INLINE static HashPair difference(const float* v) {
        Half h;
        memcpy(&h, v, sizeof h);
        return {-h, h};
    }
    AV_INLINE HashPair operator+(HashPair b) const { return {low + b.low, high + b.high}; }
    AV_INLINE HashPair operator-(HashPair b) const { return {low - b.low, high - b.high}; }
    AV_INLINE HashPair operator*(float s) const { return {low * s, high * s}; }
    AV_INLINE float dot(HashPair b) const {
        const Half h = low * b.low + high * b.high;
        float lanes[F], sum = 0;
        memcpy(lanes, &h, sizeof lanes);
        for (int f = 0; f < F; ++f) sum += lanes[f];
        return sum;
    }
    AV_INLINE void add_to(float* a) const {
        Half h;
        memcpy(&h, a, sizeof h);
        h += low + high;
        memcpy(a, &h, sizeof h);
    }
    AV_INLINE void interpolate(float x, float* out) const {
        const Half h = low + (high - low) * x;
        memcpy(out, &h, sizeof h);
    }
};
template <>
struct HashPair<1> {
    float low, high;
    AV_INLINE HashPair(const float* a, const float* b) : low(*a), high(*b) {}
    AV_INLINE HashPair(float low, float high) : low(low), high(high) {}
    AV_INLINE void store(float* a, float* b) const { *a = low, *b = high; }
    AV_INLINE static HashPair spread(const float* v, float x) { return {*v * (1 - x), *v * x}; }
    AV_INLINE HashPair operator+(HashPair b) const { return {low + b.low, high + b.high}; }
    AV_INLINE HashPair operator-(HashPair b) const { return {low - b.low, high - b.high}; }
    AV_INLINE HashPair operator*(float s) const { return {low * s, high * s}; }
    AV_INLINE static HashPair difference(const float* v) { return {-*v, *v}; }
    AV_INLINE float dot(HashPair b) const { return low * b.low + high * b.high; }
    AV_INLINE void add_to(float* a) const { *a += low + high; }
    AV_INLINE void interpolate(float x, float* out) const { *out = low + (high - low) * x; }
};
template <>
struct HashPair<2> {  // one register
    Lanes4 v;
    AV_INLINE HashPair(const float* a, const float* b) {
        double low, high;
        memcpy(&low, a, 8), memcpy(&high, b, 8);
        v = (Lanes4)Halves2{low, high};
    }
    AV_INLINE HashPair(Lanes4 v) : v(v) {}
    AV_INLINE void store(float* a, float* b) const {
        const Halves2 h = (Halves2)v;
        const double low = h[0], high = h[1];
        memcpy(a, &low, 8), memcpy(b, &high, 8);
    }
    AV_INLINE static HashPair spread(const float* u, float x) {
        double two;
        memcpy(&two, u, 8);
        const Lanes4 w = {1 - x, 1 - x, x, x};
        return (Lanes4)Halves2{two, two} * w;
    }
    AV_INLINE static HashPair difference(const float* u) {
        double two;
        memcpy(&two, u, 8);
        return (Lanes4)Halves2{two, two} * Lanes4{-1, -1, 1, 1};
    }
    AV_INLINE float dot(HashPair b) const {
        const Lanes4 t = v * b.v;
        return (t[0] + t[1]) + (t[2] + t[3]);
    }
    AV_INLINE void add_to(float* a) const { a[0] += v[0] + v[2], a[1] += v[1] + v[3]; }
    AV_INLINE HashPair operator+(HashPair b) const { return v + b.v; }
    AV_INLINE HashPair operator-(HashPair b) const { return v - b.v; }
    AV_INLINE HashPair operator*(float s) const { return v * s; }
    AV_INLINE void interpolate(float x, float* out) const {
        const Halves2 h = (Halves2)v;
        const Lanes4 low = v, high = (Lanes4)Halves2{h[1], h[1]};
        const double two = ((Halves2)(low + (high - low) * x))[0];
        memcpy(out, &two, 8);
    }
};

struct HashCall : AvHash {
    explicit HashCall(const AvHash& args) : AvHash(args) {}

    AV_INLINE HashLevel level(int l) const { return HashLevel(scales[l], resolutions[l], offsets[l], offsets[l + 1]); }
    // Floats from level to level of the scratch buffer: whole pages and a line more, so that the same position's of all levels do not meet
    // in one set of the cache.
    AV_INLINE int64_t stride(int64_t width) const { return (N * width + 1023) / 1024 * 1024 + 16; }
    AV_INLINE int64_t chunks() const { return (N + HASH_CHUNK - 1) / HASH_CHUNK; }
    AV_INLINE int64_t end(int64_t begin) const { return begin + HASH_CHUNK < N ? begin + HASH_CHUNK : N; }

    // task(level, begin, end) for each level and each chunk of positions.
    template <class Body>
    AV_INLINE void each_level_and_chunk(Body&& body) const {
        parallel_for(launch.threads, chunks() * levels, [&](int64_t task, int) {
            const int64_t begin = task % chunks() * HASH_CHUNK;
            body((int)(task / chunks()), begin, end(begin));
        });
    }
};

// [N, levels · F] from [levels, N, F] of the scratch buffer, or back.
template <int F, bool BACK>
static void hash_by_level(const HashCall& call, float* by_position, float* by_level) {
    parallel_for(call.launch.threads, call.chunks(), [&](int64_t task, int) {
        const int64_t begin = task * HASH_CHUNK, end = call.end(begin), width = (int64_t)call.levels * F, stride = call.stride(F);
        for (int64_t first = begin; first < end; first += 64) {  // a square that the cache holds, whole lines of either side
            const int n = (int)(end - first < 64 ? end - first : 64);
            for (int l = 0; l < call.levels; ++l) {
                float *row = by_position + first * width + l * F, *one = by_level + l * stride + first * F;
                for (int i = 0; i < n; ++i, row += width, one += F) memcpy(BACK ? one : row, BACK ? row : one, F * sizeof(float));
            }
        }
    });
}

// The eight corners of a position, along z and y first.
template <int F>
struct HashCube {
    HashPair<F> near_low, near_y, far_low, far_y;  // at y = 0, and the difference to y = 1; near: z = 0

    AV_INLINE HashCube(const float* rows, const HashStage& s, int i)
        : near_low(corner(rows, s, i, 0)), near_y(corner(rows, s, i, 1) - near_low), far_low(corner(rows, s, i, 2)),
          far_y(corner(rows, s, i, 3) - far_low) {}
    AV_INLINE static HashPair<F> corner(const float* rows, const HashStage& s, int i, int c) {
        return HashPair<F>(rows + (int64_t)s.low[c][i] * F, rows + (int64_t)s.high[c][i] * F);
    }
};

template <int F>
static void hash_forward_features(const HashCall& call) {
    float* scratch = (float*)call.scratch;
    call.each_level_and_chunk([&](int l, int64_t begin, int64_t end) {
        const HashLevel level = call.level(l);
        const float* rows = call.table + level.first * F;
        float* to = scratch + l * call.stride(F);
        if (begin == 0) level.sweep(rows, F, call.N);
        level.each_narrow<F>(call.positions, begin, end, rows, [&](int64_t n, const HashStage& s, int i) {
            const HashCube<F> c(rows, s, i);
            const HashPair<F> near = c.near_low + c.near_y * s.fraction[1][i], far = c.far_low + c.far_y * s.fraction[1][i];
            (near + (far - near) * s.fraction[2][i]).interpolate(s.fraction[0][i], to + n * F);
        });
    });
    hash_by_level<F, false>(call, call.out, scratch);
}

template <int F>
static void hash_table_features(const HashCall& call, const float* v_by_level) {
    parallel_for(call.launch.threads, call.levels, [&](int64_t task, int) {
        const int l = call.levels - 1 - (int)task;  // the large levels first
        const HashLevel level = call.level(l);
        float* rows = call.v_table + level.first * F;
        const float* v = v_by_level + l * call.stride(F);
        memset(rows, 0, (int64_t)level.rows * F * sizeof(float));
        level.each_narrow<F>(call.positions, 0, call.N, rows, [&](int64_t n, const HashStage& s, int i) {
            const float y = s.fraction[1][i];
            const HashPair<F> g = HashPair<F>::spread(v + n * F, s.fraction[0][i]), far = g * s.fraction[2][i], near = g - far;
            const HashPair<F> near_y = near * y, far_y = far * y;
            const auto add = [&](int c, HashPair<F> d) {
                float *low = rows + (int64_t)s.low[c][i] * F, *high = rows + (int64_t)s.high[c][i] * F;
                if (level.rows > 1) {
                    (HashPair<F>(low, high) + d).store(low, high);
                } else {  // the two are one
                    d.add_to(low);
                }
            };
            add(0, near - near_y), add(1, near_y), add(2, far - far_y), add(3, far_y);
        });
    });
}

// By the product rule through the interpolation; per level to the scratch buffer, then summed.
template <int F>
static void hash_position_features(const HashCall& call, const float* v_by_level, float* scratch) {
    call.each_level_and_chunk([&](int l, int64_t begin, int64_t end) {
        const HashLevel level = call.level(l);
        const float *rows = call.table + level.first * F, *v = v_by_level + l * call.stride(F);
        float* to = scratch + l * call.stride(3);
        if (begin == 0) level.sweep(rows, F, call.N);
        level.each_narrow<F>(call.positions, begin, end, rows, [&](int64_t n, const HashStage& s, int i) {
            const HashCube<F> c(rows, s, i);
            const float y = s.fraction[1][i], z = s.fraction[2][i];
            const HashPair<F> near = c.near_low + c.near_y * y, along_z = c.far_low + c.far_y * y - near;
            const HashPair<F> along_y = c.near_y + (c.far_y - c.near_y) * z, plane = near + along_z * z;
            const HashPair<F> g = HashPair<F>::spread(v + n * F, s.fraction[0][i]);
            to[3 * n] = level.scale * HashPair<F>::difference(v + n * F).dot(plane);
            to[3 * n + 1] = level.scale * g.dot(along_y), to[3 * n + 2] = level.scale * g.dot(along_z);
        });
    });
    parallel_for(call.launch.threads, call.chunks(), [&](int64_t task, int) {
        for (int64_t i = 3 * task * HASH_CHUNK, end = 3 * call.end(task * HASH_CHUNK); i < end; ++i) {
            float sum = 0;
            for (int l = 0; l < call.levels; ++l) sum += scratch[l * call.stride(3) + i];
            const float p = call.positions[i];
            call.v_positions[i] = p >= 0.0f && p <= 1.0f ? sum : 0.0f;
        }
    });
}

template <int F>
static void hash_backward_features(const HashCall& call) {
    float* v_by_level = (float*)call.scratch;
    hash_by_level<F, true>(call, const_cast<float*>(call.v_out), v_by_level);
    if (call.v_table) hash_table_features<F>(call, v_by_level);
    if (call.v_positions) hash_position_features<F>(call, v_by_level, v_by_level + call.levels * call.stride(F));
}

}  // namespace AV_NS
}  // namespace av
