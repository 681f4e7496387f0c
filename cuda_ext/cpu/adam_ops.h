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

// `rates` repeats every `period` elements, counted from the start of the tensor; both multiples of 16, or period 16 for one rate.
AV_INLINE void adam_span(float* p, const float* g, float* m, float* v, int64_t begin, int64_t end, const float* rates,
                         int64_t period, const AdamRates& a) {
    const F16 b1 = F16(a.beta1), c1 = F16(1.0f - a.beta1), b2 = F16(a.beta2), c2 = F16(1.0f - a.beta2), eps = F16(a.eps);
    const F16 inv_root = F16(a.inv_root);
    int64_t at = 0;
    for (int64_t i = begin; i < end; i += 16) {
        const int n = end - i < 16 ? (int)(end - i) : 16;
        const bool whole = n == 16;
        const F16 grad = whole ? load(g + i) : load_part(g + i, n);
        F16 mi = whole ? load(m + i) : load_part(m + i, n), vi = whole ? load(v + i) : load_part(v + i, n);
        F16 pi = whole ? load(p + i) : load_part(p + i, n);
        mi = fma_(b1, mi, c1 * grad);
        vi = fma_(b2, vi, c2 * grad * grad);
        pi = pi - load(rates + at) * mi / fma_(sqrt_(vi), inv_root, eps);
        if (whole) {
            store(m + i, mi), store(v + i, vi), store(p + i, pi);
        } else {
            store_part(m + i, mi, n), store_part(v + i, vi, n), store_part(p + i, pi, n);
        }
        at += 16;
        if (at >= period) at -= period;
    }
}

// Tables for a gradient of rank one per row, over one period of sixteen rows.
struct AdamFactors {
    alignas(64) float factor[16 * ADAM_MAX_COLUMNS];
    alignas(64) int32_t row[16 * ADAM_MAX_COLUMNS];  // of grad, from the start of the period
};

// Sixteen rows of the tensor from element `begin` on: the gradient is put together in registers.
static void adam_factored(const AvAdamTensor& t, int64_t begin, int64_t end, const AdamFactors& tables, const float* rates, int64_t period,
                          const AdamRates& a) {
    const F16 b1 = F16(a.beta1), c1 = F16(1.0f - a.beta1), b2 = F16(a.beta2), c2 = F16(1.0f - a.beta2), eps = F16(a.eps);
    const F16 inv_root = F16(a.inv_root);
    const int64_t grad_rows = t.rows * (t.columns / t.factor_size), span = 16 * t.columns;
    int64_t rate = 0;
    for (int64_t i = begin; i < end; i += 16) {
        const int64_t at = (i - begin) % span, first = (i - at) / t.factor_size + tables.row[at];
        const int n = end - i < 16 ? (int)(end - i) : 16, rows = grad_rows - first < 16 ? (int)(grad_rows - first) : 16;
#if AV_ISA >= 512
        const __m512i pick = _mm512_sub_epi32(_mm512_load_si512(tables.row + at), _mm512_set1_epi32(tables.row[at]));
        const F16 spread = _mm512_permutexvar_ps(pick, load_part(t.grad + first, rows).v);
#else
        (void)rows;
        alignas(64) float lanes[16];
        for (int l = 0; l < 16; ++l) lanes[l] = l < n ? t.grad[first + tables.row[at + l] - tables.row[at]] : 0.0f;
        const F16 spread = load(lanes);
#endif
        const F16 grad = spread * load(tables.factor + at);
        F16 mi = load_part(t.m + i, n), vi = load_part(t.v + i, n), pi = load_part(t.param + i, n);
        mi = fma_(b1, mi, c1 * grad);
        vi = fma_(b2, vi, c2 * grad * grad);
        pi = pi - load(rates + rate) * mi / fma_(sqrt_(vi), inv_root, eps);
        store_part(t.m + i, mi, n), store_part(t.v + i, vi, n), store_part(t.param + i, pi, n);
        rate += 16;
        if (rate >= period) rate -= period;
    }
}

static void adam_tensor(const AvAdamTensor& t, const AdamRates& a, int threads) {
    alignas(64) float rates[16 * ADAM_MAX_COLUMNS + 16];
    const bool uniform = t.head_columns >= t.columns || t.lr == t.lr_tail;
    const float head = (float)(t.lr * a.scale), tail = (float)(t.lr_tail * a.scale);
    const int64_t period = uniform ? 16 : t.columns % 16 == 0 ? t.columns : 16 * t.columns;
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
        for (int64_t i = 0; i < 16 * t.columns; ++i) {
            tables.factor[i] = t.factor[i % t.factor_size];
            tables.row[i] = (int32_t)(i / t.factor_size);
        }
        const int64_t span = 16 * t.columns, chunk = (ADAM_CHUNK / span + 1) * span, total = t.rows * t.columns;
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
