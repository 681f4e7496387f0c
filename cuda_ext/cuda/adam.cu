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

// Four moments in a row, aligned; `turn` of the first, `more` of each after it.
__device__ inline void moments_at(const void* moments, int64_t at, bool half, float* four) {
    if (half) {
        const uint2 pairs = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(moments) + at);
        four[0] = __uint_as_float(pairs.x << 16), four[1] = __uint_as_float(pairs.x & 0xffff0000u);
        four[2] = __uint_as_float(pairs.y << 16), four[3] = __uint_as_float(pairs.y & 0xffff0000u);
    } else {
        const float4 found = *reinterpret_cast<const float4*>(static_cast<const float*>(moments) + at);
        four[0] = found.x, four[1] = found.y, four[2] = found.z, four[3] = found.w;
    }
}
__device__ inline void keep_moments(void* moments, int64_t at, bool half, const float* four, unsigned turn, unsigned more) {
    if (half) {
        unsigned bits[4];
        for (int i = 0; i < 4; ++i) bits[i] = __float_as_uint(four[i]) + ((turn + i * more) & 0xffffu);
        *reinterpret_cast<uint2*>(static_cast<uint16_t*>(moments) + at) =
            make_uint2(bits[0] >> 16 | (bits[1] & 0xffff0000u), bits[2] >> 16 | (bits[3] & 0xffff0000u));
    } else {
        *reinterpret_cast<float4*>(static_cast<float*>(moments) + at) = make_float4(four[0], four[1], four[2], four[3]);
    }
}

// The products of the factors at `count` elements from `first` on of a gradient that was never written out.
__device__ inline void factored(const AvAdamTensor& t, int64_t first, int count, float* g) {
    int64_t row = first >> 32 ? first / t.factor_size : (unsigned)first / (unsigned)t.factor_size, column = first - row * t.factor_size;
    for (int i = 0; i < count; ++i) {
        g[i] = t.grad[row] * t.factor[column];
        if (++column == t.factor_size) column = 0, ++row;
    }
}

// Whether four elements in a row may be read at once. Torch aligns tensors, views may be odd.
__device__ inline bool four_at_once(const AvAdamTensor& t, bool half) {
    const uintptr_t floats = (uintptr_t)t.param | (t.factor ? 0 : (uintptr_t)t.grad), moments = (uintptr_t)t.m | (uintptr_t)t.v;
    return !t.row_ids && (floats & 15) == 0 && (moments & (half ? 7 : 15)) == 0;
}

__global__ void __launch_bounds__(ADAM_THREADS) adam_kernel(AdamBatch batch) {
    // 1 / (1 - beta^step): float keeps its digits this way, and double is slow on most cards
    const float step = batch.step_ptr ? *batch.step_ptr : batch.step;
    const float correction = -1.0f / expm1f(step * batch.log_beta1), inverse = -1.0f / expm1f(step * batch.log_beta2);
    const unsigned step_turn = (unsigned)(int64_t)step * AV_ROUND_STEP;
    int which = 0;
    while (blockIdx.x >= batch.first_block[which + 1]) ++which;
    const AvAdamTensor& t = batch.tensors[which];
    const float b1 = batch.beta1, b2 = batch.beta2, lr = t.lr * correction, lr_tail = t.lr_tail * correction;
    const bool half = (t.flags & AV_HALF_MOMENTS) != 0;
    const bool two_rates = t.head_columns < t.columns;
    const int64_t total = (t.row_ids ? t.row_count : t.rows) * t.columns;
    const int64_t first = ((int64_t)(blockIdx.x - batch.first_block[which]) * ADAM_THREADS + threadIdx.x) * ADAM_EACH;
    if (first >= total) return;
    if (first + ADAM_EACH <= total && four_at_once(t, half)) {
        float4* const kept = reinterpret_cast<float4*>(t.param + first);
        const float4 param = *kept;
        float p[4] = {param.x, param.y, param.z, param.w}, g[4], m[4], v[4], rates[4] = {lr, lr, lr, lr};
        if (t.factor) {
            factored(t, first, 4, g);
        } else {
            const float4 given = *reinterpret_cast<const float4*>(t.grad + first);
            g[0] = given.x, g[1] = given.y, g[2] = given.z, g[3] = given.w;
        }
        moments_at(t.m, first, half, m), moments_at(t.v, first, half, v);
        if (two_rates) {
            unsigned column = (unsigned)(first % t.columns);
            for (int i = 0; i < 4; ++i) {
                if (column >= t.head_columns) rates[i] = lr_tail;
                if (++column == t.columns) column = 0;
            }
        }
        for (int i = 0; i < 4; ++i) p[i] = adam_value(p[i], g[i], m[i], v[i], b1, b2, batch.eps, rates[i], inverse);
        *kept = make_float4(p[0], p[1], p[2], p[3]);
        keep_moments(t.m, first, half, m, 0x8000u, 0);
        keep_moments(t.v, first, half, v, (unsigned)(first & 15) * AV_ROUND_LANE + step_turn, AV_ROUND_LANE);
        return;
    }
    for (int64_t i = first; i < first + ADAM_EACH && i < total; ++i) {
        const int64_t row = i / t.columns, column = i - row * t.columns;
        const int64_t target = t.row_ids ? t.row_ids[row] : row;
        if ((uint64_t)target >= (uint64_t)t.rows) continue;
        const int64_t at = target * t.columns + column;
        const float rate = column < t.head_columns ? lr : lr_tail;
        float g;
        if (t.factor)
            factored(t, i, 1, &g);
        else
            g = t.grad[t.row_ids && (t.flags & AV_WHOLE_GRAD) ? at : i];
        float m = moment_at(t.m, at, half), v = moment_at(t.v, at, half);
        t.param[at] = adam_value(t.param[at], g, m, v, b1, b2, batch.eps, rate, inverse);
        const unsigned turn = ((unsigned)(t.row_ids ? column : i) & 15) * AV_ROUND_LANE + step_turn;
        keep_moment(t.m, at, half, m, 0x8000u), keep_moment(t.v, at, half, v, turn & 0xffffu);
    }
}

}  // namespace av

extern "C" int32_t av_adam(const AvAdam* args) {
    using namespace av;
    for (int64_t i = 0; i < args->count; ++i) {
        const AvAdamTensor& t = args->tensors[i];
        if (t.factor && (t.row_ids || t.factor_size < 1 || t.factor_size > 64 || t.columns % t.factor_size))
            return fail(AV_INVALID, "adam: a factored gradient needs all rows and columns that its factor of 1..64 divides");
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
