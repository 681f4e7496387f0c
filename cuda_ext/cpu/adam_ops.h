// Fused Adam: every tensor of a step in one call, dense or for a list of rows.
#pragma once
#include "../include/abi.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

constexpr int64_t ADAM_CHUNK = 16384;
constexpr int ADAM_MAX_COLUMNS = 256;

struct AdamRates {
    float beta1, beta2, eps, inv_root;  // inv_root = 1 / sqrt(1 - beta2^t)
    double scale;                       // 1 / (1 - beta1^t)
};

AV_INLINE F16 adam_moved(F16 p, F16 g, F16& m, F16& v, F16 rates, const AdamRates& a) {
    m = fma_(F16(a.beta1), m, F16(1.0f - a.beta1) * g);
    v = fma_(F16(a.beta2), v, F16(1.0f - a.beta2) * g * g);
    return p - rates * m * reciprocal(fma_(root(v), F16(a.inv_root), F16(a.eps)));  // a division and a root would take longer than memory
}

// `rates` repeats every `period` elements, counted from the start of the tensor; both multiples of 16, or period 16 for one rate.
AV_INLINE void adam_span(float* p, const float* g, float* m, float* v, int64_t begin, int64_t end, const float* rates,
                         int64_t period, const AdamRates& a) {
    int64_t at = 0;
    for (int64_t i = begin; i < end; i += 16) {
        if (end - i >= 16) {
            F16 mi = load(m + i), vi = load(v + i);
            store(p + i, adam_moved(load(p + i), load(g + i), mi, vi, load(rates + at), a));
            store(m + i, mi), store(v + i, vi);
        } else {
            const int n = (int)(end - i);
            F16 mi = load_part(m + i, n), vi = load_part(v + i, n);
            store_part(p + i, adam_moved(load_part(p + i, n), load_part(g + i, n), mi, vi, load(rates + at), a), n);
            store_part(m + i, mi, n), store_part(v + i, vi, n);
        }
        at += 16;
        if (at >= period) at -= period;
    }
}

// The least common multiple of n and the number of lanes: small tables stay in the first cache.
AV_INLINE int64_t lane_period(int64_t n) { return n % 16 == 0 ? n : n % 8 == 0 ? 2 * n : n % 4 == 0 ? 4 * n : n % 2 == 0 ? 8 * n : 16 * n; }

// Tables for a gradient of rank one per row, over one period. Lane l of the register at `at` takes factor[at + l] times
// element first[at / 16] + pick[at + l] of grad, counted from the start of the period.
struct AdamFactors {
    alignas(64) float factor[16 * ADAM_MAX_COLUMNS];
    alignas(64) int32_t pick[16 * ADAM_MAX_COLUMNS];
    int32_t first[ADAM_MAX_COLUMNS];
};

// Elements [begin, end), begin at the start of a period: the gradient is put together in registers.
static void adam_factored(const AvAdamTensor& t, int64_t begin, int64_t end, const AdamFactors& tables, const float* rates,
                          int64_t rate_period, const AdamRates& a) {
    const int64_t span = lane_period(t.factor_size), grad_count = t.rows * (t.columns / t.factor_size);
    int64_t phase = 0;
    for (int64_t base = begin; base < end; base += span) {
        const float* grad = t.grad + base / t.factor_size;
        const int64_t grad_left = grad_count - base / t.factor_size, left = end - base < span ? end - base : span;
        for (int64_t at = 0; at < left; at += 16) {
            const int64_t i = base + at, first = tables.first[at / 16];
            const F16 rate = load(rates + phase), factor = load(tables.factor + at);
            phase += 16;
            if (phase >= rate_period) phase -= rate_period;
#if AV_ISA >= 512
            const F16 source = first + 16 <= grad_left ? load(grad + first) : load_part(grad + first, (int)(grad_left - first));
            const F16 g = factor * F16(_mm512_permutexvar_ps(_mm512_load_si512(tables.pick + at), source.v));
#else
            alignas(64) float lanes[16];
            for (int l = 0; l < 16; ++l) {
                const int64_t from = first + tables.pick[at + l];
                lanes[l] = from < grad_left ? grad[from] : 0.0f;
            }
            const F16 g = factor * load(lanes);
#endif
            if (at + 16 <= left) {  // whole registers: masked stores are slow on some processors
                F16 m = load(t.m + i), v = load(t.v + i);
                store(t.param + i, adam_moved(load(t.param + i), g, m, v, rate, a));
                store(t.m + i, m), store(t.v + i, v);
            } else {
                const int n = (int)(left - at);
                F16 m = load_part(t.m + i, n), v = load_part(t.v + i, n);
                store_part(t.param + i, adam_moved(load_part(t.param + i, n), g, m, v, rate, a), n);
                store_part(t.m + i, m, n), store_part(t.v + i, v, n);
            }
        }
    }
}

static void adam_tensor(const AvAdamTensor& t, const AdamRates& a, int threads) {
    alignas(64) float rates[16 * ADAM_MAX_COLUMNS + 16];
    const bool uniform = t.head_columns >= t.columns || t.lr == t.lr_tail;
    const float head = (float)(t.lr * a.scale), tail = (float)(t.lr_tail * a.scale);
    const int64_t period = uniform ? 16 : lane_period(t.columns);
    for (int64_t i = 0; i < period + 16; ++i) rates[i] = uniform || i % t.columns < t.head_columns ? head : tail;
    if (t.row_ids) {
        const int64_t per_task = ADAM_CHUNK / (t.columns ? t.columns : 1) + 1;
        parallel_for(threads, (t.row_count + per_task - 1) / per_task, [&](int64_t task, int) {
            const int64_t end = (task + 1) * per_task < t.row_count ? (task + 1) * per_task : t.row_count;
            for (int64_t r = task * per_task; r < end; ++r) {
                const int64_t at = t.row_ids[r] * t.columns;
                adam_span(t.param + at, t.grad + r * t.columns, t.m + at, t.v + at, 0, t.columns, rates, period, a);
            }
        });
        return;
    }
    if (t.factor) {
        AdamFactors tables;
        const int64_t span = lane_period(t.factor_size), step = lane_period(t.columns);
        for (int64_t i = 0; i < span; ++i) {
            tables.factor[i] = t.factor[i % t.factor_size];
            tables.first[i / 16] = (int32_t)(i / 16 * 16 / t.factor_size);
            tables.pick[i] = (int32_t)(i / t.factor_size) - tables.first[i / 16];
        }
        const int64_t chunk = (ADAM_CHUNK / step + 1) * step, total = t.rows * t.columns;
        parallel_for(threads, (total + chunk - 1) / chunk, [&](int64_t task, int) {
            const int64_t end = (task + 1) * chunk < total ? (task + 1) * chunk : total;
            adam_factored(t, task * chunk, end, tables, rates, period, a);
        });
        return;
    }
    const int64_t total = t.rows * t.columns, chunk = period <= 16 ? ADAM_CHUNK : (ADAM_CHUNK / period + 1) * period;
    parallel_for(threads, (total + chunk - 1) / chunk, [&](int64_t task, int) {
        const int64_t end = (task + 1) * chunk < total ? (task + 1) * chunk : total;
        adam_span(t.param, t.grad, t.m, t.v, task * chunk, end, rates, period, a);
    });
}

static int32_t adam_step(const AvAdam* args) {
    AdamRates a;
    a.beta1 = (float)args->beta1, a.beta2 = (float)args->beta2, a.eps = (float)args->eps;
    a.scale = 1.0 / (1.0 - pow(args->beta1, args->step));
    a.inv_root = (float)(1.0 / sqrt(1.0 - pow(args->beta2, args->step)));
    for (int64_t i = 0; i < args->count; ++i) adam_tensor(args->tensors[i], a, args->launch.threads);
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
