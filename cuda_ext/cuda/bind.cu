// Gaussians carried by triangles, a thread per Gaussian; the mathematics is in include/bind.h. Every thread makes its triangle's
// frame anew, which costs less than storing and fetching it; gradients to the vertices are collected with atomic additions.
#include "../include/bind.h"
#include "platform.cuh"

namespace av {

constexpr int BIND_THREADS = 128;

// The frame of Gaussian n's triangle and its corners; false when an index points nowhere, which the host cannot check in time.
__device__ inline bool frame_of(const AvBind& s, int64_t n, int64_t corners[3], Frame<float>& f) {
    const int64_t face = s.face_ids[n];
    if ((uint64_t)face >= (uint64_t)s.F) return false;
    float v[3][3];
    for (int i = 0; i < 3; ++i) {
        corners[i] = s.faces[3 * face + i];
        if ((uint64_t)corners[i] >= (uint64_t)s.V) return false;
        for (int j = 0; j < 3; ++j) v[i][j] = s.vertices[3 * corners[i] + j];
    }
    triangle_frame<float>(v[0], v[1], v[2], f);
    return true;
}

__device__ inline float plain_scale(const AvBind& s, float stored) { return (s.flags & AV_LOG_SCALES) ? expf(stored) : stored; }

__global__ void __launch_bounds__(BIND_THREADS) bind_kernel(AvBind s) {
    const int64_t n = (int64_t)blockIdx.x * BIND_THREADS + threadIdx.x;
    if (n >= s.N) return;
    Frame<float> f;
    int64_t corners[3];
    if (!frame_of(s, n, corners, f)) {  // seen at once, and dropped by the rasteriser
        for (int i = 0; i < 4; ++i) s.quats[4 * n + i] = NAN;
        for (int i = 0; i < 3; ++i) s.means[3 * n + i] = s.scales[3 * n + i] = NAN;
        return;
    }
    float q[4], local_quat[4], quat[4];
    frame_quat<float>(f, q);
    for (int i = 0; i < 4; ++i) local_quat[i] = s.local_quats[4 * n + i];
    quat_multiply<float>(q, local_quat, quat);
    for (int i = 0; i < 4; ++i) s.quats[4 * n + i] = quat[i];
    const float x = s.local_means[3 * n], y = s.local_means[3 * n + 1], z = s.local_means[3 * n + 2];
    for (int i = 0; i < 3; ++i) {
        s.means[3 * n + i] = f.k * (x * f.a0[i] + y * f.a1[i] + z * f.a2[i]) + f.c[i];
        s.scales[3 * n + i] = f.k * plain_scale(s, s.local_scales[3 * n + i]);
    }
}

__global__ void __launch_bounds__(BIND_THREADS) bind_backward_kernel(AvBindBackward args) {
    const AvBind& s = args.forward;
    const int64_t n = (int64_t)blockIdx.x * BIND_THREADS + threadIdx.x;
    if (n >= s.N) return;
    Frame<float> f;
    int64_t corners[3];
    if (!frame_of(s, n, corners, f)) {
        for (int i = 0; i < 4; ++i) args.v_local_quats[4 * n + i] = 0;
        for (int i = 0; i < 3; ++i) args.v_local_means[3 * n + i] = args.v_local_scales[3 * n + i] = 0;
        return;
    }
    float q[4], inverse[4], turned[3], v_mean[3], v_quat[4], v_k = 0;
    frame_quat<float>(f, q);
    inverse[0] = q[0];
    for (int i = 1; i < 4; ++i) inverse[i] = -q[i];
    const float x = s.local_means[3 * n], y = s.local_means[3 * n + 1], z = s.local_means[3 * n + 2];
    for (int i = 0; i < 3; ++i) {
        v_mean[i] = args.v_means[3 * n + i];
        turned[i] = x * f.a0[i] + y * f.a1[i] + z * f.a2[i];
        v_k += v_mean[i] * turned[i];
        const float scale = plain_scale(s, s.local_scales[3 * n + i]), v = args.v_scales[3 * n + i];
        v_k += v * scale;
        args.v_local_scales[3 * n + i] = f.k * v * ((s.flags & AV_LOG_SCALES) ? scale : 1.0f);
    }
    args.v_local_means[3 * n] = f.k * dot<float>(f.a0, v_mean);
    args.v_local_means[3 * n + 1] = f.k * dot<float>(f.a1, v_mean);
    args.v_local_means[3 * n + 2] = f.k * dot<float>(f.a2, v_mean);
    for (int i = 0; i < 4; ++i) v_quat[i] = args.v_quats[4 * n + i];
    float v_local_quat[4];
    quat_multiply<float>(inverse, v_quat, v_local_quat);
    for (int i = 0; i < 4; ++i) args.v_local_quats[4 * n + i] = v_local_quat[i];
    if (!args.v_vertices) return;
    // the torque: of the mean about the centroid, and ½ Im(v_quat ⊗ conj(quat)), quat = q ⊗ local
    const float conjugate[4] = {s.local_quats[4 * n], -s.local_quats[4 * n + 1], -s.local_quats[4 * n + 2], -s.local_quats[4 * n + 3]};
    float v_q[4], turn[4], v_omega[3], v[3][3];
    quat_multiply<float>(v_quat, conjugate, v_q);
    quat_multiply<float>(v_q, inverse, turn);
    cross<float>(turned, v_mean, v_omega);
    for (int i = 0; i < 3; ++i) v_omega[i] = f.k * v_omega[i] + 0.5f * turn[i + 1];
    triangle_frame_backward<float>(f, v_omega, v_k, v_mean, v[0], v[1], v[2]);
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) atomicAdd(&args.v_vertices[3 * corners[i] + j], v[i][j]);
    }
}

}  // namespace av

extern "C" {

int32_t av_bind_forward(const AvBind* args) {
    using namespace av;
    const OnDevice device(args->launch);
    launch(bind_kernel, dim3(blocks_for(args->N, BIND_THREADS)), dim3(BIND_THREADS), stream_of(args->launch), *args);
    return finish("bind");
}

int32_t av_bind_backward(const AvBindBackward* args) {
    using namespace av;
    const OnDevice device(args->forward.launch);
    const cudaStream_t stream = stream_of(args->forward.launch);
    if (args->v_vertices) clear(args->v_vertices, args->forward.V * 3 * sizeof(float), stream);
    launch(bind_backward_kernel, dim3(blocks_for(args->forward.N, BIND_THREADS)), dim3(BIND_THREADS), stream, *args);
    return finish("bind backward");
}

int64_t av_bind_scratch(int64_t, int64_t, int64_t) { return 0; }

}  // extern "C"
