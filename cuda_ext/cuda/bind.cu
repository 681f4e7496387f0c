// Gaussians carried by triangles (Qian et al. 2024, GaussianAvatars), a thread per Gaussian; gradients to the vertices are
// collected with atomic additions.
//
// The frame (a0, a1, a2) is always a rotation, so its gradient is a torque: with dR = [ω]× R, the components of ω along the
// frame's axes are w1 = -a2·de0/|e0|, w2 = a1·de0/|e0| and w0 = (w2 (a0·e1) - a1·de1)/(a2·e1), since a1 stays normal to e1.
#include "platform.cuh"

namespace av {

constexpr int BIND_THREADS = 128;

struct Vec {
    float x, y, z;
};

__device__ inline Vec operator+(Vec a, Vec b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
__device__ inline Vec operator-(Vec a, Vec b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
__device__ inline Vec operator*(float s, Vec a) { return {s * a.x, s * a.y, s * a.z}; }
__device__ inline float dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
__device__ inline Vec cross(Vec a, Vec b) { return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x}; }
__device__ inline Vec unit(Vec a) { return (1.0f / fmaxf(sqrtf(dot(a, a)), 1e-20f)) * a; }
__device__ inline Vec load(const float* at) { return {at[0], at[1], at[2]}; }
__device__ inline void store(float* at, Vec a) { at[0] = a.x, at[1] = a.y, at[2] = a.z; }

struct Quat {
    float w, x, y, z;
};

__device__ inline Quat operator*(Quat p, Quat q) {
    return {p.w * q.w - p.x * q.x - p.y * q.y - p.z * q.z, p.w * q.x + p.x * q.w + p.y * q.z - p.z * q.y,
            p.w * q.y - p.x * q.z + p.y * q.w + p.z * q.x, p.w * q.z + p.x * q.y - p.y * q.x + p.z * q.w};
}
__device__ inline Quat conjugate(Quat q) { return {q.w, -q.x, -q.y, -q.z}; }
__device__ inline Quat load_quat(const float* at) { return {at[0], at[1], at[2], at[3]}; }
__device__ inline void store(float* at, Quat q) { at[0] = q.w, at[1] = q.x, at[2] = q.y, at[3] = q.z; }

struct Frame {
    int64_t corner[3];
    Vec e1, a0, a1, a2, centroid;
    float length, height, size;  // |e0|, a2·e1 (negative), k
    Quat quat;
};

__device__ inline Frame frame_of(const AvBind& s, int64_t n) {
    Frame f;
    const int64_t* face = s.faces + 3 * s.face_ids[n];
    for (int i = 0; i < 3; ++i) f.corner[i] = face[i];
    const Vec v0 = load(s.vertices + 3 * face[0]), v1 = load(s.vertices + 3 * face[1]), v2 = load(s.vertices + 3 * face[2]);
    const Vec e0 = v1 - v0;
    f.e1 = v2 - v0;
    f.length = sqrtf(dot(e0, e0));
    f.a0 = unit(e0);
    f.a1 = unit(cross(f.a0, f.e1));
    f.a2 = -1.0f * unit(cross(f.a1, f.a0));
    f.height = dot(f.a2, f.e1);
    f.size = 0.5f * (f.length + fabsf(f.height));
    f.centroid = (1.0f / 3.0f) * (v0 + v1 + v2);
    // quaternion of the matrix with columns a0 a1 a2, by its largest component
    const float xx = f.a0.x, yy = f.a1.y, zz = f.a2.z;
    const float W = 1 + xx + yy + zz, X = 1 + xx - yy - zz, Y = 1 - xx + yy - zz, Z = 1 - xx - yy + zz;
    const float a = f.a1.z - f.a2.y, b = f.a2.x - f.a0.z, c = f.a0.y - f.a1.x;
    const float d = f.a0.y + f.a1.x, e = f.a2.x + f.a0.z, g = f.a1.z + f.a2.y;
    Quat q;
    if (W >= X && W >= Y && W >= Z) q = {W, a, b, c};
    else if (X >= Y && X >= Z) q = {a, X, d, e};
    else if (Y >= Z) q = {b, d, Y, g};
    else q = {c, e, g, Z};
    const float inverse = 1.0f / fmaxf(sqrtf(q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z), 1e-12f);
    f.quat = {q.w * inverse, q.x * inverse, q.y * inverse, q.z * inverse};
    return f;
}

__global__ void __launch_bounds__(BIND_THREADS) bind_kernel(AvBind s) {
    const int64_t n = (int64_t)blockIdx.x * BIND_THREADS + threadIdx.x;
    if (n >= s.N) return;
    const Frame f = frame_of(s, n);
    const Vec local = load(s.local_means + 3 * n);
    store(s.means + 3 * n, f.size * (local.x * f.a0 + local.y * f.a1 + local.z * f.a2) + f.centroid);
    store(s.quats + 4 * n, f.quat * load_quat(s.local_quats + 4 * n));
    for (int i = 0; i < 3; ++i) {
        const float scale = s.local_scales[3 * n + i];
        s.scales[3 * n + i] = f.size * ((s.flags & AV_LOG_SCALES) ? expf(scale) : scale);
    }
}

__global__ void __launch_bounds__(BIND_THREADS) bind_backward_kernel(AvBindBackward args) {
    const AvBind& s = args.forward;
    const int64_t n = (int64_t)blockIdx.x * BIND_THREADS + threadIdx.x;
    if (n >= s.N) return;
    const Frame f = frame_of(s, n);
    const Vec local = load(s.local_means + 3 * n), v_mean = load(args.v_means + 3 * n);
    const Quat local_quat = load_quat(s.local_quats + 4 * n), v_quat = load_quat(args.v_quats + 4 * n);
    const Vec turned = local.x * f.a0 + local.y * f.a1 + local.z * f.a2;
    float v_size = dot(v_mean, turned);
    for (int i = 0; i < 3; ++i) {
        const float raw = s.local_scales[3 * n + i], v = args.v_scales[3 * n + i];
        const float scale = (s.flags & AV_LOG_SCALES) ? expf(raw) : raw;
        v_size += v * scale;
        args.v_local_scales[3 * n + i] = f.size * v * ((s.flags & AV_LOG_SCALES) ? scale : 1.0f);
    }
    store(args.v_local_means + 3 * n, f.size * Vec{dot(f.a0, v_mean), dot(f.a1, v_mean), dot(f.a2, v_mean)});
    store(args.v_local_quats + 4 * n, conjugate(f.quat) * v_quat);
    if (!args.v_vertices) return;
    const Quat turn = v_quat * conjugate(local_quat) * conjugate(f.quat);
    const Vec torque = f.size * cross(turned, v_mean) + Vec{0.5f * turn.x, 0.5f * turn.y, 0.5f * turn.z};
    const float inverse_length = f.length > 1e-20f ? 1.0f / f.length : 0.0f;
    const float inverse_height = fabsf(f.height) > 1e-20f ? 1.0f / f.height : 0.0f;
    const float along = dot(f.a0, f.e1), half = 0.5f * v_size, signed_half = f.height < 0 ? -half : half;
    const float w0 = dot(torque, f.a0);
    const float w1 = dot(torque, f.a1) + signed_half * along;
    const float w2 = dot(torque, f.a2) + w0 * along * inverse_height;
    const Vec v_e1 = (-w0 * inverse_height) * f.a1 + signed_half * f.a2;
    const Vec v_e0 = (w2 * inverse_length) * f.a1 + (-w1 * inverse_length) * f.a2 + half * f.a0;
    const Vec third = (1.0f / 3.0f) * v_mean;
    const Vec v[3] = {third - v_e0 - v_e1, third + v_e0, third + v_e1};
    for (int i = 0; i < 3; ++i) {
        float* at = args.v_vertices + 3 * f.corner[i];
        atomicAdd(at, v[i].x), atomicAdd(at + 1, v[i].y), atomicAdd(at + 2, v[i].z);
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
    if (args->v_vertices) cudaMemsetAsync(args->v_vertices, 0, args->forward.V * 3 * sizeof(float), stream);
    launch(bind_backward_kernel, dim3(blocks_for(args->forward.N, BIND_THREADS)), dim3(BIND_THREADS), stream, *args);
    return finish("bind backward");
}

int64_t av_bind_scratch(int64_t, int64_t, int64_t) { return 0; }

}  // extern "C"
