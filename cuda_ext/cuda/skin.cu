// The posed head: one block per pose for its joints (include/skin.h), then a warp per group of 32 vertices. Gradients are summed over the
// warp and collected with atomic additions in double: the sums over all vertices cancel to a small part of their terms.
#include "../include/skin.h"
#include "platform.cuh"

namespace av {

constexpr int SKIN_THREADS = 128, SKIN_WARPS = SKIN_THREADS / 32;
static_assert(AV_SKIN_GROUP == 32, "a warp per group");

// The joints of pose blockIdx.x in shared memory; every thread of the block must call this.
__device__ inline void block_chain(const AvSkin& s, Chain& chain) {
    const int64_t b = blockIdx.x, J = s.J;
    for (int i = threadIdx.x; i < 3 * (J + 1); i += SKIN_THREADS) {
        double r = 0;
        if (i >= 3 * J) r = (double)s.rotation[3 * b + i - 3 * J];
        else {
            r = (double)s.angles[3 * J * b + i];
            for (int64_t e = 0; e < s.E; ++e) r += (double)s.expression[b * s.E + e] * (double)s.turns[3 * J * e + i];
        }
        chain.r[i / 3][i % 3] = r;
    }
    __syncthreads();
    if (threadIdx.x == 0) chain_forward(chain, (int)J, s.parents, s.joints);
    __syncthreads();
}

__global__ void __launch_bounds__(SKIN_THREADS) skin_joints_kernel(AvSkin s, float* coefficients) {
    AV_SHARED Chain chain;
    const int64_t b = blockIdx.x;
    block_chain(s, chain);
    for (int j = threadIdx.x; j <= s.J; j += SKIN_THREADS)
        chain_transform(chain, (int)s.J, j, (double)s.scale, s.translation + 3 * b, s.transforms + 12 * (b * (s.J + 1) + j));
    for (int i = threadIdx.x; i < s.shapes; i += SKIN_THREADS) {
        const int at = i - (int)s.E;
        coefficients[b * s.shapes + i] = at < 0 ? s.expression[b * s.E + i] : (float)(chain.turns[at / 9].R[at % 9] - (at % 9 % 4 == 0 ? 1.0 : 0.0));
    }
}

// The blended transform of a lane's vertex.
__device__ inline void blended(const AvSkin& s, int64_t b, int64_t g, int lane, float* A) {
    for (int i = 0; i < 12; ++i) A[i] = 0;
    for (int64_t j = 0; j <= s.J; ++j) {
        const float w = s.skin_weights[((s.J + 1) * g + j) * 32 + lane];
        for (int i = 0; i < 12; ++i) A[i] = fmaf(w, s.transforms[12 * (b * (s.J + 1) + j) + i], A[i]);
    }
}

__global__ void __launch_bounds__(SKIN_THREADS) skin_kernel(AvSkin s, const float* coefficients, int64_t groups) {
    const int64_t g = (int64_t)blockIdx.x * SKIN_WARPS + threadIdx.x / 32, b = blockIdx.y;
    const int lane = threadIdx.x & 31;
    if (g >= groups) return;
    float at[3], A[12];
    for (int i = 0; i < 3; ++i) at[i] = s.rest[(3 * g + i) * 32 + lane];
    for (int n = s.starts[g]; n < s.starts[g + 1]; ++n) {
        const float c = coefficients[b * s.shapes + s.indices[n]];
        for (int i = 0; i < 3; ++i) at[i] = fmaf(c, s.offsets[(3 * (int64_t)n + i) * 32 + lane], at[i]);
    }
    for (int i = 0; i < 3; ++i) s.shaped[(3 * (b * groups + g) + i) * 32 + lane] = at[i];
    blended(s, b, g, lane, A);
    if (32 * g + lane >= s.V) return;
    float* out = s.vertices + 3 * (b * s.V + 32 * g + lane);
    for (int i = 0; i < 3; ++i) out[i] = fmaf(A[4 * i], at[0], fmaf(A[4 * i + 1], at[1], fmaf(A[4 * i + 2], at[2], A[4 * i + 3])));
}

__device__ inline double warp_total(double value) {
    for (int step = 16; step; step /= 2) value += __shfl_xor_sync(FULL, value, step);
    return value;
}

// sums [B, shapes + 12·(J + 1)], zero before.
__global__ void __launch_bounds__(SKIN_THREADS) skin_backward_kernel(AvSkin s, double* sums, int64_t groups) {
    const int64_t g = (int64_t)blockIdx.x * SKIN_WARPS + threadIdx.x / 32, b = blockIdx.y, count = s.shapes + 12 * (s.J + 1);
    const int lane = threadIdx.x & 31;
    if (g >= groups) return;
    double* mine = sums + count * b;
    const bool real = 32 * g + lane < s.V;
    float v[3], at[3], A[12], v_at[3];
    for (int i = 0; i < 3; ++i) {
        v[i] = real ? s.v_vertices[3 * (b * s.V + 32 * g + lane) + i] : 0.0f;
        at[i] = s.shaped[(3 * (b * groups + g) + i) * 32 + lane];
    }
    blended(s, b, g, lane, A);
    for (int k = 0; k < 3; ++k) v_at[k] = A[k] * v[0] + A[4 + k] * v[1] + A[8 + k] * v[2];
    for (int64_t j = 0; j <= s.J; ++j) {
        const float w = s.skin_weights[((s.J + 1) * g + j) * 32 + lane];
        if (!__any_sync(FULL, w != 0.0f)) continue;
        for (int i = 0; i < 12; ++i) {
            const double total = warp_total((double)w * (double)v[i / 4] * (i % 4 == 3 ? 1.0 : (double)at[i % 4]));
            if (lane == 0) atomicAdd(mine + s.shapes + 12 * j + i, total);
        }
    }
    for (int n = s.starts[g]; n < s.starts[g + 1]; ++n) {
        const float* p = s.offsets + 96 * (int64_t)n + lane;
        const double total = warp_total((double)v_at[0] * p[0] + (double)v_at[1] * p[32] + (double)v_at[2] * p[64]);
        if (lane == 0) atomicAdd(mine + s.indices[n], total);
    }
}

__global__ void __launch_bounds__(SKIN_THREADS) skin_joints_backward_kernel(AvSkin s, const double* sums) {
    AV_SHARED Chain chain;
    AV_SHARED double v_r[AV_SKIN_JOINTS + 1][3];
    const int64_t b = blockIdx.x, J = s.J;
    const double* mine = sums + (s.shapes + 12 * (J + 1)) * b;
    block_chain(s, chain);
    if (threadIdx.x == 0) {
        double v_translation[3];
        chain_backward(chain, (int)J, s.parents, s.joints, (double)s.scale, mine + s.shapes, s.shapes > s.E ? mine + s.E : nullptr, v_r, v_translation);
        for (int i = 0; i < 3; ++i) s.v_rotation[3 * b + i] = (float)v_r[J][i], s.v_translation[3 * b + i] = (float)v_translation[i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 3 * J; i += SKIN_THREADS) s.v_angles[3 * J * b + i] = (float)v_r[i / 3][i % 3];
    for (int64_t e = threadIdx.x; e < s.E; e += SKIN_THREADS) {
        double v = mine[e];
        for (int64_t i = 0; i < 3 * J; ++i) v += v_r[i / 3][i % 3] * (double)s.turns[3 * J * e + i];
        s.v_expression[b * s.E + e] = (float)v;
    }
}

static const char* bad_skin(const AvSkin& s) {
    if (s.J < 1 || s.J > AV_SKIN_JOINTS) return "a head has 1..64 joints";
    if (s.B < 0 || s.B > 65535 || s.V < 0) return "at most 65535 poses";
    if (s.scratch_bytes < av_skin_scratch(s.B, s.V, s.J, s.shapes)) return "skin: the scratch is too small";
    return nullptr;
}

}  // namespace av

extern "C" {

int64_t av_skin_scratch(int64_t B, int64_t, int64_t J, int64_t shapes) { return B * (shapes + 12 * (J + 1)) * (int64_t)sizeof(double); }

int32_t av_skin_forward(const AvSkin* args) {
    using namespace av;
    if (const char* why = bad_skin(*args)) return fail(AV_INVALID, why);
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    const int64_t groups = (args->V + 31) / 32;
    float* coefficients = static_cast<float*>(args->scratch);
    launch(skin_joints_kernel, dim3((unsigned)args->B), dim3(SKIN_THREADS), stream, *args, coefficients);
    launch(skin_kernel, dim3(blocks_for(groups, SKIN_WARPS), (unsigned)args->B), dim3(SKIN_THREADS), stream, *args, coefficients, groups);
    return finish("skin");
}

int32_t av_skin_backward(const AvSkin* args) {
    using namespace av;
    if (const char* why = bad_skin(*args)) return fail(AV_INVALID, why);
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    const int64_t groups = (args->V + 31) / 32;
    double* sums = static_cast<double*>(args->scratch);
    clear(sums, (size_t)(args->B * (args->shapes + 12 * (args->J + 1))) * sizeof(double), stream);
    launch(skin_backward_kernel, dim3(blocks_for(groups, SKIN_WARPS), (unsigned)args->B), dim3(SKIN_THREADS), stream, *args, sums, groups);
    launch(skin_joints_backward_kernel, dim3((unsigned)args->B), dim3(SKIN_THREADS), stream, *args, sums);
    return finish("skin backward");
}

}  // extern "C"
