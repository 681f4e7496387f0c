// Gradients to the cameras: a thread per Gaussian and camera finds what it has to say, blocks add that up, and one block per camera adds up
// the blocks, always in the same order. Apart from the other gradients, because seventeen more sums would cost those that
// nobody asks for cameras.
#include "project.cuh"

namespace av {

constexpr int WARPS = THREADS / 32;

template <int DEGREE, bool MOMENTS>
__global__ void __launch_bounds__(THREADS) camera_kernel(AvScene s, const Record* records, const float4* moments, AvProjected v_out,
                                                         AvProjected seen, float* sums) {
    AV_SHARED float of_warps[WARPS][AV_CAMERA_SUMS];
    const int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int camera = blockIdx.y;
    const int64_t at = camera * s.N + n;
    float v[AV_CAMERA_SUMS];
#pragma unroll
    for (int i = 0; i < AV_CAMERA_SUMS; ++i) v[i] = 0;
    float4 m[3];
    if (n < s.N && reached<MOMENTS>(records, moments, seen, at, m)) {
        const Gaussian g = load_gaussian(s, n);
        const Camera cam = load_camera(s, camera);
        const View w = view_of(s, g, cam, camera);
        const ViewGradient in = view_gradient<MOMENTS>(records, v_out, seen, at, m, w);
        float v_mean[3] = {0, 0, 0}, seen_from[3] = {0, 0, 0}, v_quat[4], v_scale[3], Y[16];
        project_shape_backward<float>(cam, g.mean, g.quat, g.scale, (s.flags & AV_ANTIALIASED) != 0, w, in.u, in.v, in.z, in.conic[0],
                                      in.conic[1], in.conic[2], in.opacity * g.opacity, v_mean, v_quat, v_scale, v);
        add_color_gradient<DEGREE>(s, n, g, cam, in.color, Y, seen_from);
        view_point_backward<float>(cam, seen_from, v);
    }
#pragma unroll
    for (int i = 0; i < AV_CAMERA_SUMS; ++i) {
        for (int step = 16; step > 0; step /= 2) v[i] += __shfl_xor_sync(FULL, v[i], step);
        if ((threadIdx.x & 31) == 0) of_warps[threadIdx.x / 32][i] = v[i];
    }
    __syncthreads();
    if (threadIdx.x >= AV_CAMERA_SUMS) return;
    float total = 0;
    for (int warp = 0; warp < WARPS; ++warp) total += of_warps[warp][threadIdx.x];
    sums[((int64_t)camera * gridDim.x + blockIdx.x) * AV_CAMERA_SUMS + threadIdx.x] = total;
}

// A warp per value, a block per camera.
__global__ void __launch_bounds__(32 * AV_CAMERA_SUMS) camera_total_kernel(const float* sums, int blocks, float* v_viewmats, float* v_Ks) {
    AV_SHARED double totals[AV_CAMERA_SUMS];
    const int camera = blockIdx.x, value = threadIdx.x / 32, lane = threadIdx.x & 31;
    double total = 0;
    for (int block = lane; block < blocks; block += 32) total += sums[((int64_t)camera * blocks + block) * AV_CAMERA_SUMS + value];
    for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(FULL, total, step);
    if (lane == 0) totals[value] = total;
    __syncthreads();
    if (threadIdx.x == 0) camera_gradient(totals, v_viewmats + 16 * camera, v_Ks + 9 * camera);
}

void launch_camera_gradients(const AvScene& s, const Record* records, const float* gradients, const AvProjected& v_out,
                             const AvProjected& seen, const CameraGradients& out, cudaStream_t stream) {
    if (!out.sums) return;
    const unsigned blocks = blocks_for(s.N, THREADS);
    const float4* moments = reinterpret_cast<const float4*>(gradients);
#define AV_CALL(D)                                                                                                             \
    launch(gradients ? camera_kernel<D, true> : camera_kernel<D, false>, dim3(blocks, (unsigned)s.C), dim3(THREADS), stream, s, \
           records, moments, v_out, seen, out.sums)
    AV_BY_DEGREE(s.sh_degree, AV_CALL)
#undef AV_CALL
    launch(camera_total_kernel, dim3((unsigned)s.C), dim3(32 * AV_CAMERA_SUMS), stream, (const float*)out.sums, (int)blocks, out.viewmats,
           out.Ks);
}

}  // namespace av
