// Kernels with one fault each, and a right one: what test_emulation.py expects the emulation to find.
#include "platform.cuh"

namespace av {

constexpr int N = 64;

__global__ void reverse_kernel(float* out, int fault) {
    AV_SHARED float shared[N];
    shared[threadIdx.x] = (float)threadIdx.x;
    if (fault != 1) __syncthreads();
    out[blockIdx.x * N + threadIdx.x] = shared[N - 1 - threadIdx.x];
}

__global__ void neighbour_kernel(float* out, int fault) {
    AV_SHARED float shared[N];
    const int lane = threadIdx.x & 31, other = (int)threadIdx.x - lane + (lane + 1) % 32;
    shared[threadIdx.x] = (float)lane;
    if (fault != 2) __syncwarp();
    else __shfl_sync(FULL, lane, 0);  // brings the lanes together, but orders no memory
    out[threadIdx.x] = shared[other];
}

__global__ void total_kernel(float* out, int fault) {
    if (fault == 3) out[0] = 1.0f;  // by both blocks
    else atomicAdd(&out[0], 1.0f);
    if (fault == 4 && threadIdx.x == 0) out[1] = out[0];  // while others still add
}

__global__ void lonely_kernel(float* out, int fault) {
    if (fault == 5 && threadIdx.x == 7) return;
    out[threadIdx.x] = (float)__any_sync(FULL, threadIdx.x == 3);
}

}  // namespace av

extern "C" void run(float* out, int fault) {
    using namespace av;
    const dim3 one(1), two(2), block(N);
    launch(reverse_kernel, two, block, nullptr, out, fault);
    launch(neighbour_kernel, one, block, nullptr, out, fault);
    launch(total_kernel, two, block, nullptr, out, fault);
    launch(lonely_kernel, one, block, nullptr, out, fault);
    launch(lonely_kernel, dim3(1, fault == 6 ? 65536 : 0), block, nullptr, out, fault);
    if (fault == 7) launch(lonely_kernel, one, dim3(2048), nullptr, out, fault);
    cudaMemsetAsync(out, 0, fault == 8 ? 0 : 4, nullptr);
}
