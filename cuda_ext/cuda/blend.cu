// Blendshapes of Gaussians, a warp per Gaussian with its lanes along the weights, and the penalties of their training.
// Sums over Gaussians go through one partial per block and a second kernel: the same bits every time.
#include "warp_sums.cuh"

namespace av {

constexpr int BLEND_THREADS = 256, BLEND_WARPS = BLEND_THREADS / 32;
constexpr int GATHER_THREADS = 1024, GATHER_WARPS = GATHER_THREADS / 32;  // a warp waits for memory at each Gaussian: many of them
constexpr int64_t BLEND_BLOCK = 1024;  // Gaussians per partial sum: what abi.h sizes the scratch for

__global__ void __launch_bounds__(BLEND_THREADS) blend_kernel(AvBlend s) {
    const int64_t n = ((int64_t)blockIdx.x * BLEND_THREADS + threadIdx.x) / 32;
    const int lane = threadIdx.x & 31;
    if (n >= s.N) return;
    float v[VALUES] = {};
    const float* basis = s.basis + n * VALUES * s.K;
    for (int k = lane; k < s.K; k += 32) {
        const float weight = s.weights[k];
#pragma unroll
        for (int c = 0; c < VALUES; ++c) v[c] = fmaf(basis[c * s.K + k], weight, v[c]);
    }
    const float delta = warp_sums(v);
    if (s.size && value_of_lane() >= 0) s.delta[VALUES * n + value_of_lane()] = delta;
    const int value = value_of_lane(), coefficients = 3 * s.sh_bases;
    if (value >= 7) s.out[2][n * coefficients + value - 7] = s.in[2][n * coefficients + value - 7] + delta;
    else if (value >= 3) s.out[1][4 * n + value - 3] = s.in[1][4 * n + value - 3] + delta;
    else if (value >= 0) s.out[0][3 * n + value] = s.in[0][3 * n + value] + delta;
    for (int i = 3 + lane; i < coefficients; i += 32) s.out[2][n * coefficients + i] = s.in[2][n * coefficients + i];
}

__global__ void __launch_bounds__(GATHER_THREADS) blend_backward_kernel(AvBlend s, float* partials) {
    AV_SHARED float sums[GATHER_WARPS][64];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, coefficients = 3 * s.sh_bases;
    const int64_t begin = blockIdx.x * BLEND_BLOCK, end = min(begin + BLEND_BLOCK, s.N);
    float total[2] = {0, 0};
    for (int64_t n = begin + warp; n < end; n += GATHER_WARPS) {
        float v = 0;
        if (lane < 3) v = s.v_out[0][3 * n + lane];
        else if (lane < 7) v = s.v_out[1][4 * n + lane - 3];
        else if (lane < VALUES) v = s.v_out[2][n * coefficients + lane - 7];
        if (s.v_size && lane < VALUES && (lane < 3 || lane >= 7)) v += 2.0f * *s.v_size / (3.0f * (float)s.N) * s.delta[VALUES * n + lane];
        if (lane < VALUES) s.v_delta[VALUES * n + lane] = v;
        const float* basis = s.basis + n * VALUES * s.K;
#pragma unroll
        for (int c = 0; c < VALUES; ++c) {
            const float v_c = __shfl_sync(FULL, v, c);
            if (lane < s.K) total[0] = fmaf(v_c, basis[c * s.K + lane], total[0]);
            if (lane + 32 < s.K) total[1] = fmaf(v_c, basis[c * s.K + lane + 32], total[1]);
        }
    }
    sums[warp][lane] = total[0], sums[warp][lane + 32] = total[1];
    __syncthreads();
    if (threadIdx.x < s.K) {
        float all = 0;
        for (int w = 0; w < GATHER_WARPS; ++w) all += sums[w][threadIdx.x];
        partials[(int64_t)blockIdx.x * s.K + threadIdx.x] = all;
    }
}

// A warp per weight.
__global__ void blend_sum_kernel(const float* partials, int64_t blocks, int K, float* v_weights) {
    double all = 0;
    for (int64_t b = threadIdx.x; b < blocks; b += 32) all += partials[b * K + blockIdx.x];
    for (int step = 16; step; step /= 2) all += __shfl_xor_sync(FULL, all, step);
    if (threadIdx.x == 0) v_weights[blockIdx.x] = (float)all;
}

// Sums of the squared corrections of mean and colour, one per block.
__global__ void __launch_bounds__(BLEND_THREADS) blend_size_kernel(AvBlend s, double* partials) {
    AV_SHARED double sums[BLEND_WARPS];
    const int64_t begin = blockIdx.x * BLEND_BLOCK, end = min(begin + BLEND_BLOCK, s.N);
    double total = 0;
    for (int64_t i = VALUES * begin + threadIdx.x; i < VALUES * end; i += BLEND_THREADS) {
        const int column = (int)(i % VALUES);
        if (column < 3 || column >= 7) total += (double)s.delta[i] * (double)s.delta[i];
    }
    for (int step = 16; step; step /= 2) total += __shfl_xor_sync(FULL, total, step);
    if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = total;
    __syncthreads();
    if (threadIdx.x == 0) {
        double all = 0;
        for (int w = 0; w < BLEND_WARPS; ++w) all += sums[w];
        partials[blockIdx.x] = all / (3.0 * (double)s.N);
    }
}

__global__ void __launch_bounds__(BLEND_THREADS) penalty_kernel(AvPenalty s, double* partials) {
    AV_SHARED double sums[BLEND_WARPS];
    const float inverse = 1.0f / (float)s.N;
    const float wp = s.position_weight * inverse, ws = s.scale_weight * inverse / 3.0f, wo = s.opacity_weight * inverse;
    const int64_t begin = blockIdx.x * BLEND_BLOCK, end = min(begin + BLEND_BLOCK, s.N);
    double total = 0;
    for (int64_t n = begin + threadIdx.x; n < end; n += BLEND_THREADS) {
        const float reach = s.reach[n], limit = s.max_scale * fmaxf(reach, 1.0f);
        const float x = s.means[3 * n], y = s.means[3 * n + 1], z = s.means[3 * n + 2];
        const float length = sqrtf(x * x + y * y + z * z + 1e-12f), pull = length > reach ? wp / length : 0.0f;
        float here = length > reach ? wp * (length - reach) : 0.0f;
        for (int i = 0; i < 3; ++i) {
            const float plain = expf(s.log_scales[3 * n + i]);
            if (plain > limit) here += ws * (plain - limit);
            if (s.v_means) s.v_log_scales[3 * n + i] = plain > limit ? ws * plain : 0.0f;
        }
        const float opacity = 1.0f / (1.0f + expf(-s.logit_opacities[n]));
        total += here + wo * opacity;
        if (!s.v_means) continue;
        s.v_means[3 * n] = pull * x, s.v_means[3 * n + 1] = pull * y, s.v_means[3 * n + 2] = pull * z;
        s.v_logit_opacities[n] = wo * opacity * (1.0f - opacity);
    }
    for (int step = 16; step; step /= 2) total += __shfl_xor_sync(FULL, total, step);
    if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = total;
    __syncthreads();
    if (threadIdx.x == 0) {
        double all = 0;
        for (int w = 0; w < BLEND_WARPS; ++w) all += sums[w];
        partials[blockIdx.x] = all;
    }
}

// The scalar that the blocks' parts add up to.
__global__ void parts_sum_kernel(const double* partials, int64_t blocks, float* loss) {
    double all = 0;
    for (int64_t b = threadIdx.x; b < blocks; b += 32) all += partials[b];
    for (int step = 16; step; step /= 2) all += __shfl_xor_sync(FULL, all, step);
    if (threadIdx.x == 0) *loss = (float)all;
}

}  // namespace av

extern "C" {

int32_t av_blend_forward(const AvBlend* args) {
    using namespace av;
    if (args->K < 1 || args->K > 64) return fail(AV_INVALID, "a blend has 1..64 shapes");
    if (args->size && args->scratch_bytes < (int64_t)(args->N / BLEND_BLOCK + 1) * (int64_t)sizeof(double)) return fail(AV_INVALID, "blend: the scratch is too small");
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    launch(blend_kernel, dim3(blocks_for(args->N, BLEND_WARPS)), dim3(BLEND_THREADS), stream, *args);
    if (args->size) {
        const unsigned blocks = blocks_for(args->N, BLEND_BLOCK);
        double* partials = static_cast<double*>(args->scratch);
        launch(blend_size_kernel, dim3(blocks), dim3(BLEND_THREADS), stream, *args, partials);
        launch(parts_sum_kernel, dim3(1), dim3(32), stream, partials, (int64_t)blocks, args->size);
    }
    return finish("blend");
}

int32_t av_blend_backward(const AvBlend* args) {
    using namespace av;
    if (args->K < 1 || args->K > 64) return fail(AV_INVALID, "a blend has 1..64 shapes");
    const unsigned blocks = blocks_for(args->N, BLEND_BLOCK);
    if (args->scratch_bytes < (int64_t)blocks * args->K * (int64_t)sizeof(float)) return fail(AV_INVALID, "blend: the scratch is too small");
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    float* partials = static_cast<float*>(args->scratch);
    launch(blend_backward_kernel, dim3(blocks), dim3(GATHER_THREADS), stream, *args, partials);
    launch(blend_sum_kernel, dim3((unsigned)args->K), dim3(32), stream, partials, (int64_t)blocks, args->K, args->v_weights);
    return finish("blend backward");
}

int32_t av_penalty(const AvPenalty* args) {
    using namespace av;
    const unsigned blocks = blocks_for(args->N, BLEND_BLOCK);
    if (args->N < 1) return fail(AV_INVALID, "a mean needs Gaussians");
    if (args->scratch_bytes < (int64_t)blocks * (int64_t)sizeof(double)) return fail(AV_INVALID, "penalty: the scratch is too small");
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    double* partials = static_cast<double*>(args->scratch);
    launch(penalty_kernel, dim3(blocks), dim3(BLEND_THREADS), stream, *args, partials);
    launch(parts_sum_kernel, dim3(1), dim3(32), stream, partials, (int64_t)blocks, args->loss);
    return finish("penalty");
}

}  // extern "C"
