// Adam over several tensors in one launch; all rows, or those listed.
#include <math.h>

#include "platform.cuh"

namespace av {

constexpr int ADAM_THREADS = 256, ADAM_EACH = 4, ADAM_TENSORS = 24;  // tensors per launch: the parameters must stay below 4 KiB

struct AdamBatch {
    AvAdamTensor tensors[ADAM_TENSORS];
    unsigned first_block[ADAM_TENSORS + 1];
    int count;
    float beta1, beta2, log_beta1, log_beta2, step;
    const float* step_ptr;
    float eps;
};

__device__ inline float adam_value(float p, float g, float& m, float& v, float b1, float b2, float eps, float rate, float inverse) {
    m = fmaf(1.0f - b1, g - m, m);
    v = fmaf(1.0f - b2, g * g, b2 * v);
    return p - rate * m / (sqrtf(v * inverse) + eps);
}

// A moment as a float or as the upper half of one, see AV_HALF_MOMENTS; `turn`: what is added before the lower half is dropped.
__device__ inline float moment_at(const void* moments, int64_t at, bool half) {
    if (!half) return static_cast<const float*>(moments)[at];
    return __uint_as_float((unsigned)static_cast<const uint16_t*>(moments)[at] << 16);
}
__device__ inline void keep_moment(void* moments, int64_t at, bool half, float value, unsigned turn) {
    if (half)
        static_cast<uint16_t*>(moments)[at] = (uint16_t)((__float_as_uint(value) + turn) >> 16);
    else
        static_cast<float*>(moments)[at] = value;
}

__global__ void __launch_bounds__(ADAM_THREADS) adam_kernel(AdamBatch batch) {
    // 1 / (1 - beta^step): float keeps its digits this way, and double is slow on most cards
    const float step = batch.step_ptr ? *batch.step_ptr : batch.step;
    const float correction = -1.0f / expm1f(step * batch.log_beta1), inverse = -1.0f / expm1f(step * batch.log_beta2);
    int which = 0;
    while (blockIdx.x >= batch.first_block[which + 1]) ++which;
    const AvAdamTensor& t = batch.tensors[which];
    const float b1 = batch.beta1, b2 = batch.beta2, lr = t.lr * correction, lr_tail = t.lr_tail * correction;
    const bool half = (t.flags & AV_HALF_MOMENTS) != 0;
    const bool two_rates = t.head_columns < t.columns;
    const int64_t total = (t.row_ids ? t.row_count : t.rows) * t.columns;
    const int64_t first = ((int64_t)(blockIdx.x - batch.first_block[which]) * ADAM_THREADS + threadIdx.x) * ADAM_EACH;
    if (first >= total) return;
    if (!t.row_ids && !half && first + ADAM_EACH <= total) {  // 16 bytes at a time; torch aligns tensors, views may be odd
        const bool aligned = (((uintptr_t)t.param | (uintptr_t)t.grad | (uintptr_t)t.m | (uintptr_t)t.v) & 15) == 0;
        if (aligned) {
            float4* const kept_m = reinterpret_cast<float4*>(static_cast<float*>(t.m) + first);
            float4* const kept_v = reinterpret_cast<float4*>(static_cast<float*>(t.v) + first);
            float4 p = *reinterpret_cast<float4*>(t.param + first), m = *kept_m, v = *kept_v;
            const float4 g = *reinterpret_cast<const float4*>(t.grad + first);
            float rates[4] = {lr, lr, lr, lr};
            if (two_rates) {
                unsigned column = (unsigned)(first % t.columns);
                for (int i = 0; i < 4; ++i) {
                    if (column >= t.head_columns) rates[i] = lr_tail;
                    if (++column == t.columns) column = 0;
                }
            }
            p.x = adam_value(p.x, g.x, m.x, v.x, b1, b2, batch.eps, rates[0], inverse);
            p.y = adam_value(p.y, g.y, m.y, v.y, b1, b2, batch.eps, rates[1], inverse);
            p.z = adam_value(p.z, g.z, m.z, v.z, b1, b2, batch.eps, rates[2], inverse);
            p.w = adam_value(p.w, g.w, m.w, v.w, b1, b2, batch.eps, rates[3], inverse);
            *reinterpret_cast<float4*>(t.param + first) = p;
            *kept_m = m;
            *kept_v = v;
            return;
        }
    }
    for (int64_t i = first; i < first + ADAM_EACH && i < total; ++i) {
        const int64_t row = i / t.columns, column = i - row * t.columns;
        const int64_t target = t.row_ids ? t.row_ids[row] : row;
        if ((uint64_t)target >= (uint64_t)t.rows) continue;
        const int64_t at = target * t.columns + column;
        const float rate = column < t.head_columns ? lr : lr_tail;
        const float g = t.grad[t.row_ids && (t.flags & AV_WHOLE_GRAD) ? at : i];
        float m = moment_at(t.m, at, half), v = moment_at(t.v, at, half);
        t.param[at] = adam_value(t.param[at], g, m, v, b1, b2, batch.eps, rate, inverse);
        const unsigned lane = (unsigned)(t.row_ids ? column : i) & 15, turn = lane * AV_ROUND_LANE + (unsigned)(int64_t)step * AV_ROUND_STEP;
        keep_moment(t.m, at, half, m, 0x8000u), keep_moment(t.v, at, half, v, turn & 0xffffu);
    }
}

}  // namespace av

extern "C" int32_t av_adam(const AvAdam* args) {
    using namespace av;
    for (int64_t i = 0; i < args->count; ++i) {
        if (args->tensors[i].factor) return fail(AV_UNSUPPORTED, "adam: factored gradients are for the CPU");
    }
    const OnDevice device(args->launch);
    for (int64_t begin = 0; begin < args->count; begin += ADAM_TENSORS) {
        AdamBatch batch = {};
        batch.beta1 = (float)args->beta1, batch.log_beta1 = (float)log(args->beta1);
        batch.beta2 = (float)args->beta2, batch.log_beta2 = (float)log(args->beta2);
        batch.step = (float)args->step, batch.step_ptr = args->step_ptr;
        batch.eps = (float)args->eps;
        int64_t blocks = 0;
        for (int64_t i = begin; i < args->count && i < begin + ADAM_TENSORS; ++i) {
            const AvAdamTensor& t = args->tensors[i];
            batch.tensors[batch.count] = t;
            batch.first_block[batch.count++] = (unsigned)blocks;
            blocks += blocks_for((t.row_ids ? t.row_count : t.rows) * t.columns, ADAM_THREADS * ADAM_EACH);
            if (blocks > 0x7fffffff) return fail(AV_INVALID, "adam: more values than one launch can hold");
        }
        for (int i = batch.count; i <= ADAM_TENSORS; ++i) batch.first_block[i] = (unsigned)blocks;
        launch(adam_kernel, dim3((unsigned)blocks), dim3(ADAM_THREADS), stream_of(args->launch), batch);
    }
    return finish("adam");
}
