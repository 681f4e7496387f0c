// L1, structural similarity, mattes, and their gradients: two passes over the pictures, separable window in shared memory.
//
// A block owns 32 × 32 pixels of one channel. Across: a thread makes four neighbouring outputs of a row, lanes on different rows; down: a
// lane per column, four rows per warp; so that each value read from shared memory serves four outputs, and no bank conflicts.
// Sums over pixels go through one partial per block and a second kernel: the same bits every time.
#include "platform.cuh"

namespace av {

constexpr int SIDE = 32, RADIUS = AV_SSIM_RADIUS, WINDOW = 2 * RADIUS + 1;
constexpr int HALO = SIDE + 2 * RADIUS, PITCH_IN = HALO + 1, PITCH_OUT = SIDE + 1;  // odd: rows in different banks
constexpr int SSIM_THREADS = 256;

struct Window {
    float w[WINDOW];
};

static Window window() {
    double all = 0, w[WINDOW];
    for (int i = 0; i < WINDOW; ++i) {
        w[i] = exp(-(double)((i - RADIUS) * (i - RADIUS)) / (2 * AV_SSIM_SIGMA * AV_SSIM_SIGMA));
        all += w[i];
    }
    Window result;
    for (int i = 0; i < WINDOW; ++i) result.w[i] = (float)(w[i] / all);
    return result;
}

struct Place {
    int image, channel, left, top, height, width, crop;

    __device__ Place(int height_, int width_, int crop_)
        : image(blockIdx.z / 3), channel(blockIdx.z % 3), left(blockIdx.x * SIDE), top(blockIdx.y * SIDE), height(height_),
          width(width_), crop(crop_) {}
    __device__ bool in_image(int y, int x) const { return y >= 0 && y < height && x >= 0 && x < width; }
    __device__ bool counted(int y, int x) const {
        return y >= crop && y < height - crop && x >= crop && x < width - crop;
    }
    __device__ int64_t pixel(int y, int x) const { return ((int64_t)image * height + y) * width + x; }
    __device__ int64_t value(int y, int x) const { return pixel(y, x) * 3 + channel; }
};

constexpr int SSIM_SUMS = 3;           // of w |a-b|, w · map, w
constexpr int64_t MATTE_BLOCK = 4096;  // pixels per partial sum

__global__ void __launch_bounds__(SSIM_THREADS) ssim_kernel(AvSsim args, Window window, float* partials, float* maps, float scale) {
    AV_SHARED float in[2][HALO * PITCH_IN];
    AV_SHARED float across[5][HALO * PITCH_OUT];
    AV_SHARED float sums[SSIM_SUMS][SSIM_THREADS / 32];
    const Place place(args.height, args.width, args.crop);
    for (int i = threadIdx.x; i < HALO * HALO; i += SSIM_THREADS) {
        const int row = i / HALO, column = i % HALO, y = place.top + row - RADIUS, x = place.left + column - RADIUS;
        const bool inside = place.in_image(y, x);
        in[0][row * PITCH_IN + column] = inside ? args.a[place.value(y, x)] : 0.0f;
        in[1][row * PITCH_IN + column] = inside ? args.b[place.value(y, x)] : 0.0f;
    }
    __syncthreads();
    for (int task = threadIdx.x; task < HALO * (SIDE / 4); task += SSIM_THREADS) {
        const int row = task % HALO, first = task / HALO * 4;
        float sum[5][4] = {};
#pragma unroll
        for (int k = 0; k < WINDOW + 3; ++k) {
            const float a = in[0][row * PITCH_IN + first + k], b = in[1][row * PITCH_IN + first + k];
            const float aa = a * a, bb = b * b, ab = a * b;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if (k - j < 0 || k - j >= WINDOW) continue;
                const float w = window.w[k - j];
                sum[0][j] = fmaf(w, a, sum[0][j]), sum[1][j] = fmaf(w, b, sum[1][j]);
                sum[2][j] = fmaf(w, aa, sum[2][j]), sum[3][j] = fmaf(w, bb, sum[3][j]), sum[4][j] = fmaf(w, ab, sum[4][j]);
            }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int m = 0; m < 5; ++m) across[m][row * PITCH_OUT + first + j] = sum[m][j];
        }
    }
    __syncthreads();
    const int column = threadIdx.x & 31, first = (threadIdx.x >> 5) * 4, x = place.left + column;
    float sum[5][4] = {};
#pragma unroll
    for (int k = 0; k < WINDOW + 3; ++k) {
#pragma unroll
        for (int m = 0; m < 5; ++m) {
            const float value = across[m][(first + k) * PITCH_OUT + column];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if (k - j < 0 || k - j >= WINDOW) continue;
                sum[m][j] = fmaf(window.w[k - j], value, sum[m][j]);
            }
        }
    }
    float totals[SSIM_SUMS] = {};
    const int64_t plane = (int64_t)args.B * 3 * args.height * args.width;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const int y = place.top + first + j;
        if (!place.in_image(y, x)) continue;
        const float ma = sum[0][j], mb = sum[1][j];
        const float va = sum[2][j] - ma * ma, vb = sum[3][j] - mb * mb, vab = sum[4][j] - ma * mb;
        const float A = 2 * ma * mb + AV_SSIM_C1, B = 2 * vab + AV_SSIM_C2;
        const float C = ma * ma + mb * mb + AV_SSIM_C1, D = va + vb + AV_SSIM_C2;
        const float inverse_C = 1.0f / C, inverse_D = 1.0f / D;
        const float map = A * B * inverse_C * inverse_D;
        float weight = place.counted(y, x) ? scale : 0.0f;
        if (args.weights) weight *= args.weights[place.pixel(y, x)];
        const int at = (first + j + RADIUS) * PITCH_IN + column + RADIUS;
        totals[0] += weight * fabsf(in[0][at] - in[1][at]), totals[1] += weight * map, totals[2] += weight;
        if (args.v_a) {  // derivatives of the mean to the blurs of a, a² and a·b
            float* saved = maps + (blockIdx.z * (int64_t)args.height + y) * args.width + x;
            const float slope = 2 * inverse_C * inverse_D;
            saved[0] = weight * (slope * mb * (B - A) - 2 * ma * map * (inverse_C - inverse_D));
            saved[plane] = -weight * map * inverse_D;
            saved[2 * plane] = weight * slope * A;
        }
    }
    for (int m = 0; m < SSIM_SUMS; ++m) {
        for (int step = 16; step; step /= 2) totals[m] += __shfl_xor_sync(FULL, totals[m], step);
        if ((threadIdx.x & 31) == 0) sums[m][threadIdx.x >> 5] = totals[m];
    }
    __syncthreads();
    if (threadIdx.x < SSIM_SUMS) {
        float all = 0;
        for (int w = 0; w < SSIM_THREADS / 32; ++w) all += sums[threadIdx.x][w];
        const int64_t blocks = (int64_t)gridDim.x * gridDim.y * 3;
        const int64_t block = ((int64_t)place.channel * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        partials[(place.image * blocks + block) * SSIM_SUMS + threadIdx.x] = all;
    }
}

// |alpha - matte| of a run of pixels, and its gradient.
__global__ void __launch_bounds__(SSIM_THREADS) matte_kernel(AvSsim args, float* parts, int64_t size, float step) {
    AV_SHARED float sums[SSIM_THREADS / 32];
    const int64_t begin = blockIdx.x * MATTE_BLOCK, end = min(begin + MATTE_BLOCK, size), image = size * blockIdx.y;
    float total = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += SSIM_THREADS) {
        const float d = args.alpha[image + i] - args.mattes[image + i];
        total += fabsf(d);
        if (args.v_alpha) args.v_alpha[image + i] = d > 0.0f ? step : d < 0.0f ? -step : 0.0f;
    }
    for (int bits = 16; bits; bits /= 2) total += __shfl_xor_sync(FULL, total, bits);
    if ((threadIdx.x & 31) == 0) sums[threadIdx.x / 32] = total;
    __syncthreads();
    if (threadIdx.x == 0) {
        float all = 0;
        for (int w = 0; w < SSIM_THREADS / 32; ++w) all += sums[w];
        parts[blockIdx.y * gridDim.x + blockIdx.x] = all;
    }
}

// The block's sum of x, in thread 0.
__device__ inline double block_sum(double x, double* sums) {
    for (int step = 16; step; step /= 2) x += __shfl_xor_sync(FULL, x, step);
    __syncthreads();  // `sums` may still be read for the sum before
    if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = x;
    __syncthreads();
    double all = 0;
    for (int w = 0; w < SSIM_THREADS / 32 && threadIdx.x == 0; ++w) all += sums[w];
    return all;
}

// A block per image adds up the partial sums.
__global__ void __launch_bounds__(SSIM_THREADS) ssim_sum_kernel(AvSsim args, const float* partials, int64_t blocks, const float* mattes, int64_t matte_blocks) {
    AV_SHARED double sums[SSIM_THREADS / 32];
    double totals[SSIM_SUMS + 1] = {};
    const float *mine = partials + blockIdx.x * blocks * SSIM_SUMS, *my_mattes = mattes + blockIdx.x * matte_blocks;
    for (int64_t i = threadIdx.x; i < blocks; i += SSIM_THREADS) {
        for (int m = 0; m < SSIM_SUMS; ++m) totals[m] += mine[SSIM_SUMS * i + m];
    }
    for (int64_t i = threadIdx.x; i < matte_blocks; i += SSIM_THREADS) totals[SSIM_SUMS] += my_mattes[i];
    for (int m = 0; m <= SSIM_SUMS; ++m) totals[m] = block_sum(totals[m], sums);
    if (threadIdx.x != 0) return;
    const double matte = totals[SSIM_SUMS] / ((double)args.height * args.width);
    args.l1[blockIdx.x] = (float)totals[0], args.ssim[blockIdx.x] = (float)totals[1];
    args.loss[blockIdx.x] = (float)(args.l1_factor * totals[0] + args.ssim_factor * (totals[2] - totals[1]) + args.matte_factor * matte);
}

// v_a = -(blur(map₀) + 2a·blur(map₁) + b·blur(map₂)) times the factor of 1 - SSIM, plus the L1 term.
__global__ void __launch_bounds__(SSIM_THREADS) ssim_gradient_kernel(AvSsim args, Window window, const float* maps, float scale) {
    AV_SHARED float in[3][HALO * PITCH_IN];
    AV_SHARED float across[3][HALO * PITCH_OUT];
    const Place place(args.height, args.width, args.crop);
    const int64_t plane = (int64_t)args.B * 3 * args.height * args.width;
    const float* saved = maps + blockIdx.z * (int64_t)args.height * args.width;
    for (int i = threadIdx.x; i < HALO * HALO; i += SSIM_THREADS) {
        const int row = i / HALO, column = i % HALO, y = place.top + row - RADIUS, x = place.left + column - RADIUS;
        const bool inside = place.in_image(y, x);
        const float* at = saved + (int64_t)y * args.width + x;
#pragma unroll
        for (int m = 0; m < 3; ++m) in[m][row * PITCH_IN + column] = inside ? at[m * plane] : 0.0f;
    }
    __syncthreads();
    for (int task = threadIdx.x; task < HALO * (SIDE / 4); task += SSIM_THREADS) {
        const int row = task % HALO, first = task / HALO * 4;
#pragma unroll
        for (int m = 0; m < 3; ++m) {
            float sum[4] = {};
#pragma unroll
            for (int k = 0; k < WINDOW + 3; ++k) {
                const float value = in[m][row * PITCH_IN + first + k];
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    if (k - j >= 0 && k - j < WINDOW) sum[j] = fmaf(window.w[k - j], value, sum[j]);
                }
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) across[m][row * PITCH_OUT + first + j] = sum[j];
        }
    }
    __syncthreads();
    const int column = threadIdx.x & 31, first = (threadIdx.x >> 5) * 4, x = place.left + column;
    float sum[3][4] = {};
#pragma unroll
    for (int k = 0; k < WINDOW + 3; ++k) {
#pragma unroll
        for (int m = 0; m < 3; ++m) {
            const float value = across[m][(first + k) * PITCH_OUT + column];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if (k - j >= 0 && k - j < WINDOW) sum[m][j] = fmaf(window.w[k - j], value, sum[m][j]);
            }
        }
    }
    const float to_ssim = -args.ssim_factor, to_l1 = args.l1_factor * scale;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const int y = place.top + first + j;
        if (!place.in_image(y, x)) continue;
        const int64_t at = place.value(y, x);
        const float a = args.a[at], b = args.b[at];
        float gradient = to_ssim * (sum[0][j] + 2 * a * sum[1][j] + b * sum[2][j]);
        if (place.counted(y, x)) {
            const float weight = args.weights ? args.weights[place.pixel(y, x)] : 1.0f;
            gradient += a > b ? to_l1 * weight : a < b ? -to_l1 * weight : 0.0f;
        }
        args.v_a[at] = gradient;
    }
}

static dim3 ssim_grid(int64_t B, int height, int width) {
    return dim3(blocks_for(width, SIDE), blocks_for(height, SIDE), (unsigned)(3 * B));
}

static float ssim_scale(int height, int width, int crop) {
    return (float)(1.0 / (3.0 * (height - 2.0 * crop) * (width - 2.0 * crop)));
}

struct SsimSpace {
    float *partials, *mattes, *maps;
    int64_t bytes, matte_blocks;

    SsimSpace(void* memory, int64_t B, int height, int width, bool gradient) : matte_blocks(blocks_for((int64_t)height * width, MATTE_BLOCK)) {
        const dim3 grid = ssim_grid(B, height, width);
        Arena arena(memory);
        partials = arena.take<float>((int64_t)grid.x * grid.y * grid.z * SSIM_SUMS);
        mattes = arena.take<float>(B * matte_blocks);
        maps = arena.take<float>(gradient ? 3 * B * 3 * height * width : 0);
        bytes = arena.used;
    }
};

}  // namespace av

extern "C" {

int64_t av_ssim_scratch(int64_t B, int32_t height, int32_t width, int32_t, int32_t gradient) {
    return av::SsimSpace(nullptr, B, height, width, gradient != 0).bytes;
}

int32_t av_ssim(const AvSsim* args) {
    using namespace av;
    const int64_t B = args->B, size = (int64_t)args->height * args->width;
    if (3 * B > 65535) return fail(AV_INVALID, "ssim: more than 21845 images in one call");
    const SsimSpace space(args->scratch, B, args->height, args->width, args->v_a != nullptr);
    if (args->scratch_bytes < space.bytes) return fail(AV_INVALID, "ssim: the scratch is smaller than av_ssim_scratch says");
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    const dim3 grid = ssim_grid(B, args->height, args->width);
    const float scale = ssim_scale(args->height, args->width, args->crop);
    const int64_t matte_blocks = args->alpha ? space.matte_blocks : 0;
    launch(ssim_kernel, grid, dim3(SSIM_THREADS), stream, *args, window(), space.partials, space.maps, scale);
    launch(matte_kernel, dim3((unsigned)matte_blocks, (unsigned)B), dim3(SSIM_THREADS), stream, *args, space.mattes, size,
           (float)(args->matte_factor / (double)size));
    launch(ssim_sum_kernel, dim3((unsigned)B), dim3(SSIM_THREADS), stream, *args, space.partials, (int64_t)grid.x * grid.y * 3, space.mattes,
           matte_blocks);
    if (args->v_a) launch(ssim_gradient_kernel, grid, dim3(SSIM_THREADS), stream, *args, window(), space.maps, scale);
    return finish("ssim");
}

}  // extern "C"
