// Arrays [rows, K] whose gradient is an outer product, d[row]·factor[column], read in the order of memory: whole registers, whatever K.
#pragma once
#include "simd.h"

namespace av {
inline namespace AV_NS {

enum { OUTER_COLUMNS = 64, OUTER_PAD = 16 };  // the most columns; floats behind d that may be read, of any finite value

// The least common multiple of n and the number of lanes: small tables stay in the first cache.
AV_INLINE int64_t lane_period(int64_t n) { return n % 16 == 0 ? n : n % 8 == 0 ? 2 * n : n % 4 == 0 ? 4 * n : n % 2 == 0 ? 8 * n : 16 * n; }

// Tables over one period, after which the lanes meet the same columns again.
struct Outer {
    int registers, rows, K;  // registers and rows of a period
    alignas(64) float factor[16 * OUTER_COLUMNS];
    alignas(64) int32_t pick[16 * OUTER_COLUMNS];           // row of a lane, counted from the first of its machine register
    int32_t first[16 / AV_NATIVE * OUTER_COLUMNS];
};

static void outer_tables(const float* factor, int64_t K, Outer& o) {
    const int64_t span = lane_period(K);
    o.registers = (int)(span / 16), o.rows = (int)(span / K), o.K = (int)K;
    for (int64_t i = 0; i < span; ++i) {
        const int64_t begin = i / AV_NATIVE * AV_NATIVE;
        o.factor[i] = factor[i % K];
        o.first[begin / AV_NATIVE] = (int32_t)(begin / K);
        o.pick[i] = (int32_t)(i / K - begin / K);
    }
}

// d of the rows that the lanes of register r belong to.
AV_INLINE F16 spread(const float* d, const Outer& o, int r) {
#if AV_ISA >= 512
    return F16((__m512)permute(load_native(d + o.first[r]), load_native(o.pick + 16 * r)));
#elif AV_ISA >= 256
    F16 out;
    for (int h = 0; h < 2; ++h) out.r[h] = permute(load_native(d + o.first[2 * r + h]), load_native(o.pick + 16 * r + 8 * h));
    return out;
#else
    alignas(64) float lanes[16];
    for (int l = 0; l < 16; ++l) lanes[l] = d[o.first[16 / AV_NATIVE * r + l / AV_NATIVE] + o.pick[16 * r + l]];
    return load(lanes);
#endif
}

// Runs body(i, n, d_lanes, r) for the elements of an array in order: sixteen from i on, or the n < 16 last; r: register of the period.
template <int REGISTERS, class Body>
AV_INLINE void outer_each(int64_t count, const float* d, const Outer& o, Body&& body) {
    const int registers = REGISTERS ? REGISTERS : o.registers;
    int64_t base = 0;
    for (; base + 16 * registers <= count; base += 16 * registers, d += o.rows)
#pragma GCC unroll 5
        for (int r = 0; r < registers; ++r) body(base + 16 * r, 16, spread(d, o, r), r);
    for (int r = 0; base + 16 * r < count; ++r) {
        const int64_t left = count - base - 16 * r;
        body(base + 16 * r, left < 16 ? (int)left : 16, spread(d, o, r), r);
    }
}

// Adds the sums that the registers of a period hold to those of the columns.
static void outer_columns(const F16* sums, const Outer& o, float* columns) {
    for (int k = 0; k < o.K; ++k) columns[k] = 0.0f;
    for (int r = 0; r < o.registers; ++r) {
        alignas(64) float lanes[16];
        store(lanes, sums[r]);
        for (int l = 0; l < 16; ++l) columns[(16 * r + l) % o.K] += lanes[l];
    }
}

// Σ over the rows of d·array, per column.
template <int REGISTERS>
static void outer_sums_of(const float* array, int64_t count, const float* d, const Outer& o, float* columns) {
    F16 sums[REGISTERS ? REGISTERS : OUTER_COLUMNS];
    for (F16& sum : sums) sum = F16(0.0f);
    outer_each<REGISTERS>(count, d, o, [&](int64_t i, int n, F16 lanes, int r) __attribute__((always_inline)) {
        sums[r] = fma_(lanes, n == 16 ? load(array + i) : load_part(array + i, n), sums[r]);
    });
    outer_columns(sums, o, columns);
}

static void outer_sums(const float* array, int64_t count, const float* d, const Outer& o, float* columns) {
    switch (o.registers) {
        case 1: return outer_sums_of<1>(array, count, d, o, columns);
        case 3: return outer_sums_of<3>(array, count, d, o, columns);
        case 5: return outer_sums_of<5>(array, count, d, o, columns);
        default: return outer_sums_of<0>(array, count, d, o, columns);
    }
}

}  // namespace AV_NS
}  // namespace av
