// Fused Adam: every tensor of a step in one run of the pool, dense or for a list of rows.
#pragma once
#include <stdlib.h>

#include "../include/abi.h"
#include "outer.h"
#include "pool.h"
#include "simd_bfloat.h"

namespace av {
inline namespace AV_NS {

constexpr int64_t ADAM_CHUNK = 16384;
constexpr int ADAM_MAX_COLUMNS = AV_ADAM_COLUMNS;

struct AdamRates {
    float beta1, beta2, eps, inv_root;  // inv_root = 1 / sqrt(1 - beta2^t)
    double scale;                       // 1 / (1 - beta1^t)
    uint32_t turn;                      // of this step's rounding
};

// The same for sixteen lanes; held by value, so that no store makes the compiler fetch them again.
struct AdamLanes {
    F16 beta1, beta2, rest1, rest2, inv_root, eps;
    U16 nearest, turning;
    AV_INLINE explicit AdamLanes(const AdamRates& a)
        : beta1(a.beta1), beta2(a.beta2), rest1(1.0f - a.beta1), rest2(sqrtf(1.0f - a.beta2)), inv_root(a.inv_root), eps(a.eps),
          nearest(rounding(0x8000u, 0)), turning(rounding(a.turn, AV_ROUND_LANE)) {}
};

// How moments are kept, and a number ≈ 1 / (√v·inv_root + eps). Halves: see AV_HALF_MOMENTS in abi_training.h.
struct Floats {
    typedef float T;
    AV_INLINE static F16 get(const float* p) { return load(p); }
    AV_INLINE static void put(float* p, F16 a, const U16&) { store(p, a); }
    AV_INLINE static F16 inverse(F16 v, const AdamLanes& a) {  // a division and a root would take longer than memory
        return reciprocal(fma_(root(v), a.inv_root, a.eps));
    }
};
struct Halves {
    typedef uint16_t T;
    AV_INLINE static F16 get(const uint16_t* p) { return load_halves(p); }
    AV_INLINE static void put(uint16_t* p, F16 a, const U16& add) { store_halves(p, a, add); }
    AV_INLINE static F16 inverse(F16 v, const AdamLanes& a) {  // as good as v itself
        return rough_reciprocal(fma_(rough_root(v), a.inv_root, a.eps));
    }
};

template <class Kept>
AV_INLINE F16 adam_moved(F16 p, F16 g, F16& m, F16& v, F16 rates, const AdamLanes& a) {
    const F16 small = a.rest2 * g;
    m = fma_(a.beta1, m, a.rest1 * g);
    v = fma_(a.beta2, v, small * small);
    return fnma_(rates * m, Kept::inverse(v, a), p);
}

// Elements [i, i + n) of a tensor, n ≤ 16. Whole registers apart: masked stores are slow on some processors.
template <class Kept>
AV_INLINE void adam_lanes(float* param, void* m_base, void* v_base, int64_t i, int n, F16 g, F16 rates, const AdamLanes& a) {
    typedef typename Kept::T T;
    float* p = param + i;
    T *m = (T*)m_base + i, *v = (T*)v_base + i;
    if (n == 16) {
        F16 mi = Kept::get(m), vi = Kept::get(v);
        store(p, adam_moved<Kept>(load(p), g, mi, vi, rates, a));
        Kept::put(m, mi, a.nearest), Kept::put(v, vi, a.turning);
    } else {
        T lanes[2][16] = {};
        memcpy(lanes[0], m, (size_t)n * sizeof(T)), memcpy(lanes[1], v, (size_t)n * sizeof(T));
        F16 mi = Kept::get(lanes[0]), vi = Kept::get(lanes[1]);
        store_part(p, adam_moved<Kept>(load_part(p, n), g, mi, vi, rates, a), n);
        Kept::put(lanes[0], mi, a.nearest), Kept::put(lanes[1], vi, a.turning);
        memcpy(m, lanes[0], (size_t)n * sizeof(T)), memcpy(v, lanes[1], (size_t)n * sizeof(T));
    }
}

// The rates of a tensor repeat every `period` elements, counted from its start or that of a row: a multiple of 16.
struct AdamTable {
    int64_t period;
    alignas(64) float rates[8 * ADAM_MAX_COLUMNS + 16];
};

static void adam_table(const AvAdamTensor& t, const AdamRates& a, AdamTable& table) {
    const bool uniform = t.head_columns >= t.columns || t.lr == t.lr_tail;
    const float head = (float)(t.lr * a.scale), tail = (float)(t.lr_tail * a.scale);
    // Odd numbers of columns have the longest periods; so many that the table would not hold one are refused (api.cpp).
    table.period = uniform ? 16 : lane_period(t.columns);
    for (int64_t i = 0; i < table.period; ++i) table.rates[i] = uniform || i % t.columns < t.head_columns ? head : tail;
}

template <class Kept>
static void adam_span(const AvAdamTensor& t, const float* g, int64_t begin, int64_t count, const AdamTable& table,
                      const AdamRates& rates) {
    const AdamLanes a(rates);
    float* const param = t.param + begin;
    typename Kept::T *const m = (typename Kept::T*)t.m + begin, *const v = (typename Kept::T*)t.v + begin;
    int64_t at = 0;
    for (int64_t i = 0; i < count; i += 16) {
        const int n = count - i < 16 ? (int)(count - i) : 16;
        adam_lanes<Kept>(param, m, v, i, n, n == 16 ? load(g + i) : load_part(g + i, n), load(table.rates + at), a);
        at = at + 16 < table.period ? at + 16 : 0;
    }
}

// Elements [begin, begin + count), begin at the start of a row that is a multiple of 16: the gradient d ⊗ factor is put together in
// registers. With `columns`: also Σ over the rows of d·param, the gradient to the factor, before anything moves. REGISTERS: of a period of
// `o`, or 0 for any.
template <int REGISTERS, class Kept>
static void adam_outer_of(const AvAdamTensor& t, int64_t begin, int64_t count, const float* d, const Outer& o, const AdamTable& table,
                          const AdamRates& rates, float* columns) {
    const AdamLanes a(rates);
    float* const param = t.param + begin;
    typename Kept::T *const m = (typename Kept::T*)t.m + begin, *const v = (typename Kept::T*)t.v + begin;
    const int64_t period = table.period;
    F16 sums[REGISTERS ? REGISTERS : OUTER_COLUMNS];
    for (F16& sum : sums) sum = F16(0.0f);
    int64_t at = 0;
    outer_each<REGISTERS>(count, d, o, [&](int64_t i, int n, F16 lanes, int r) __attribute__((always_inline)) {
        sums[r] = fma_(lanes, n == 16 ? load(param + i) : load_part(param + i, n), sums[r]);
        adam_lanes<Kept>(param, m, v, i, n, lanes * load(o.factor + 16 * r), load(table.rates + at), a);
        at = at + 16 < period ? at + 16 : 0;
    });
    if (columns) outer_columns(sums, o, columns);
}

template <class Kept>
static void adam_outer(const AvAdamTensor& t, int64_t begin, int64_t count, const float* d, const Outer& o, const AdamTable& table,
                       const AdamRates& a, float* columns) {
    switch (o.registers) {
        case 1: return adam_outer_of<1, Kept>(t, begin, count, d, o, table, a, columns);
        case 3: return adam_outer_of<3, Kept>(t, begin, count, d, o, table, a, columns);
        case 5: return adam_outer_of<5, Kept>(t, begin, count, d, o, table, a, columns);
        default: return adam_outer_of<0, Kept>(t, begin, count, d, o, table, a, columns);
    }
}

// One tensor and what its tasks share.
struct AdamPlan {
    AdamTable table;
    Outer outer;
    int64_t first, per_task;  // number of the first task; rows or elements of each
};

template <class Kept>
static void adam_task(const AvAdamTensor& t, const AdamPlan& plan, const AdamRates& a, int64_t task) {
    const int64_t begin = task * plan.per_task, total = t.row_ids ? t.row_count : t.rows * t.columns;
    const int64_t count = total - begin < plan.per_task ? total - begin : plan.per_task;
    if (t.row_ids) {
        for (int64_t r = begin; r < begin + count; ++r) {
            const float* g = t.grad + (t.flags & AV_WHOLE_GRAD ? t.row_ids[r] : r) * t.columns;
            adam_span<Kept>(t, g, t.row_ids[r] * t.columns, t.columns, plan.table, a);
        }
    } else if (t.factor) {
        float* d = (float*)malloc((size_t)(count / t.factor_size + OUTER_PAD) * sizeof(float));  // the last rows are read past their end
        memcpy(d, t.grad + begin / t.factor_size, (size_t)(count / t.factor_size) * sizeof(float));
        memset(d + count / t.factor_size, 0, OUTER_PAD * sizeof(float));
        adam_outer<Kept>(t, begin, count, d, plan.outer, plan.table, a, nullptr);
        free(d);
    } else {
        adam_span<Kept>(t, t.grad + begin, begin, count, plan.table, a);
    }
}

static AdamRates adam_rates(const AvAdam& args) {
    AdamRates a;
    a.beta1 = (float)args.beta1, a.beta2 = (float)args.beta2, a.eps = (float)args.eps;
    a.scale = 1.0 / (1.0 - pow(args.beta1, args.step));
    a.inv_root = (float)(1.0 / sqrt(1.0 - pow(args.beta2, args.step)));
    a.turn = (uint32_t)(int64_t)args.step * AV_ROUND_STEP;
    return a;
}

static int32_t adam_step(const AvAdam* args) {
    const AdamRates a = adam_rates(*args);
    const AvAdamTensor* tensors = args->tensors;
    AdamPlan* plans = (AdamPlan*)aligned_alloc(64, (size_t)(args->count + 1) * ((sizeof(AdamPlan) + 63) / 64 * 64));
    int64_t tasks = 0;
    for (int64_t i = 0; i < args->count; ++i) {
        const AvAdamTensor& t = tensors[i];
        AdamPlan& plan = plans[i];
        adam_table(t, a, plan.table);
        const int64_t columns = t.columns ? t.columns : 1, total = t.row_ids ? t.row_count : t.rows * t.columns;
        const int64_t step = t.factor ? 16 * columns : plan.table.period;  // elements after which everything starts over
        if (t.factor) outer_tables(t.factor, t.factor_size, plan.outer);
        plan.first = tasks;
        plan.per_task = t.row_ids ? ADAM_CHUNK / columns + 1 : ADAM_CHUNK % step ? (ADAM_CHUNK / step + 1) * step : ADAM_CHUNK;
        tasks += (total + plan.per_task - 1) / plan.per_task;
    }
    parallel_for(args->launch.threads, tasks, [&](int64_t task, int) {
        int64_t i = args->count - 1;
        while (task < plans[i].first) --i;
        if (tensors[i].flags & AV_HALF_MOMENTS)
            adam_task<Halves>(tensors[i], plans[i], a, task - plans[i].first);
        else
            adam_task<Floats>(tensors[i], plans[i], a, task - plans[i].first);
    });
    free(plans);
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
