// Gaussians that ride on triangles: frames once per face, then sixteen Gaussians at a time.
#pragma once
#include "../include/abi.h"
#include "../include/bind.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

struct FaceFrame {
    float q[4], k, c[3];
};
static_assert(sizeof(FaceFrame) == 32, "half a cache line");

struct FaceGradient {  // of one Gaussian, then summed per face
    float omega[3], k, c[3], used;
};

enum { BIND_BLOCK = 256 };

// The mesh, and what its gradient needs room for.
struct BindMesh {
    int64_t V, F, N;
    const float* vertices;
    const int64_t *faces, *face_ids;
    FaceFrame* frames;           // [F]
    FaceGradient* per_face;      // [F]
    FaceGradient* per_gaussian;  // [N]
    float* corners;              // [F, 9]
};

static int64_t bind_scratch(int64_t, int64_t F, int64_t N) {
    return 64 + F * (int64_t)(sizeof(FaceFrame) + sizeof(FaceGradient) + 9 * sizeof(float)) + N * (int64_t)sizeof(FaceGradient);
}

static BindMesh bind_mesh(int64_t V, int64_t F, int64_t N, const float* vertices, const int64_t* faces, const int64_t* face_ids, void* scratch) {
    FaceFrame* frames = (FaceFrame*)(((uintptr_t)scratch + 63) / 64 * 64);
    FaceGradient* gradients = (FaceGradient*)(frames + F);
    return BindMesh{V, F, N, vertices, faces, face_ids, frames, gradients, gradients + F, (float*)(gradients + F + N)};
}

AV_INLINE void load_triangles(const BindMesh& in, int64_t f, int count, F16 (*v)[3]) {
    for (int corner = 0; corner < 3; ++corner) {
        const float* row[16];
        bool more[16];
        for (int l = 0; l < 16; ++l) {
            const int64_t vertex = in.faces[3 * (f + (l < count ? l : 0)) + corner];
            row[l] = in.vertices + 3 * vertex, more[l] = vertex + 1 < in.V;
        }
        gather_threes(row, more, v[corner]);
    }
}

static void face_frames(const BindMesh& in, int threads) {
    parallel_for(threads, (in.F + BIND_BLOCK - 1) / BIND_BLOCK, [&](int64_t block, int) {
        const int64_t end = (block + 1) * BIND_BLOCK < in.F ? (block + 1) * BIND_BLOCK : in.F;
        for (int64_t f = block * BIND_BLOCK; f < end; f += 16) {
            const int count = end - f < 16 ? (int)(end - f) : 16;
            F16 v[3][3], rows[8];
            Frame<F16> frame;
            load_triangles(in, f, count, v);
            triangle_frame(v[0], v[1], v[2], frame);
            frame_quat(frame, rows);
            rows[4] = frame.k;
            for (int i = 0; i < 3; ++i) rows[5 + i] = frame.c[i];
            store_rows<8>((float*)(in.frames + f), count, rows);
        }
    });
}

// Sixteen Gaussians and the frames of their triangles; scales are plain.
struct BindLanes {
    F16 frame[8];  // q 4, k, c 3
    F16 mean[3], quat[4], scale[3];
};

AV_INLINE void bind_lanes(const BindLanes& in, F16* mean, F16* quat, F16* scale) {
    const F16 *q = in.frame, k = in.frame[4];
    quat_rotate(q, in.mean, mean);
    for (int i = 0; i < 3; ++i) mean[i] = fma_(k, mean[i], in.frame[5 + i]);
    quat_multiply(q, in.quat, quat);
    for (int i = 0; i < 3; ++i) scale[i] = k * in.scale[i];
}

// From the gradients of the results to those of mean and quat (v_scale likewise: times k, in place), and of the frame when `rows` [8] is given.
AV_INLINE void bind_lanes_backward(const BindLanes& in, const F16* v_mean, const F16* v_quat, F16* v_scale, F16* v_local_mean,
                                   F16* v_local_quat, F16* rows) {
    const F16 *q = in.frame, k = in.frame[4];
    F16 back[4], turned[3];
    back[0] = q[0];
    for (int i = 1; i < 4; ++i) back[i] = -q[i];
    quat_rotate(back, v_mean, turned);  // Rᵀ v_mean
    for (int i = 0; i < 3; ++i) v_local_mean[i] = k * turned[i];
    quat_multiply(back, v_quat, v_local_quat);  // the transpose of left multiplication by a unit quaternion
    if (rows) {
        F16 world[3], moment[3], p[4];
        quat_rotate(q, in.mean, world);
        cross(world, v_mean, moment);     // δ(k R m) = ω × (k R m)
        quat_multiply(q, in.quat, p);     // δp = ½ (0, ω) ⊗ p
        const F16 half = F16(0.5f);
        rows[0] = fma_(k, moment[0], half * (p[0] * v_quat[1] - p[1] * v_quat[0] - p[3] * v_quat[2] + p[2] * v_quat[3]));
        rows[1] = fma_(k, moment[1], half * (p[0] * v_quat[2] - p[2] * v_quat[0] + p[3] * v_quat[1] - p[1] * v_quat[3]));
        rows[2] = fma_(k, moment[2], half * (p[0] * v_quat[3] - p[3] * v_quat[0] - p[2] * v_quat[1] + p[1] * v_quat[2]));
        rows[3] = dot(turned, in.mean);
        for (int i = 0; i < 3; ++i) rows[3] = fma_(v_scale[i], in.scale[i], rows[3]), rows[4 + i] = v_mean[i];
        rows[7] = F16(1.0f);
    }
    for (int i = 0; i < 3; ++i) v_scale[i] = k * v_scale[i];
}

// Sums in the order of the Gaussians, whoever computes them: each task owns a range of faces, then of vertices.
static void bind_to_vertices(const BindMesh& in, float* v_vertices, int threads) {
    parallel_for(threads, threads, [&](int64_t task, int) {
        const int64_t low = task * in.F / threads, high = (task + 1) * in.F / threads;
        memset(in.per_face + low, 0, (size_t)(high - low) * sizeof *in.per_face);
        for (int64_t n = 0; n < in.N; ++n) {
            const int64_t f = in.face_ids[n];
            if (f < low || f >= high) continue;
            float* to = (float*)(in.per_face + f);
            const float* from = (const float*)(in.per_gaussian + n);
            for (int i = 0; i < 8; ++i) to[i] += from[i];
        }
    });
    parallel_for(threads, (in.F + BIND_BLOCK - 1) / BIND_BLOCK, [&](int64_t block, int) {
        const int64_t end = (block + 1) * BIND_BLOCK < in.F ? (block + 1) * BIND_BLOCK : in.F;
        for (int64_t f = block * BIND_BLOCK; f < end; f += 16) {
            const int count = end - f < 16 ? (int)(end - f) : 16;
            F16 v[3][3], rows[8], out[9];
            load_rows<8>((const float*)(in.per_face + f), count, rows);
            if (!bits(rows[7] > F16(0.0f))) continue;  // these corners are not read
            Frame<F16> frame;
            load_triangles(in, f, count, v);
            triangle_frame(v[0], v[1], v[2], frame);
            triangle_frame_backward(frame, rows, rows[3], rows + 4, out, out + 3, out + 6);
            store_rows<9>(in.corners + 9 * f, count, out);
        }
    });
    parallel_for(threads, threads, [&](int64_t task, int) {
        const int64_t low = task * in.V / threads, high = (task + 1) * in.V / threads;
        memset(v_vertices + 3 * low, 0, (size_t)(high - low) * 3 * sizeof(float));
        for (int64_t f = 0; f < in.F; ++f) {
            if (in.per_face[f].used == 0.0f) continue;
            for (int corner = 0; corner < 3; ++corner) {
                const int64_t vertex = in.faces[3 * f + corner];
                if (vertex < low || vertex >= high) continue;
                for (int i = 0; i < 3; ++i) v_vertices[3 * vertex + i] += in.corners[9 * f + 3 * corner + i];
            }
        }
    });
}

static int32_t bind_forward(const AvBind* args) {
    const AvBind& in = *args;
    const BindMesh mesh = bind_mesh(in.V, in.F, in.N, in.vertices, in.faces, in.face_ids, in.scratch);
    face_frames(mesh, in.launch.threads);
    parallel_for(in.launch.threads, (in.N + BIND_BLOCK - 1) / BIND_BLOCK, [&](int64_t block, int) {
        const int64_t end = (block + 1) * BIND_BLOCK < in.N ? (block + 1) * BIND_BLOCK : in.N;
        for (int64_t n = block * BIND_BLOCK; n < end; n += 16) {
            const int count = end - n < 16 ? (int)(end - n) : 16;
            BindLanes lanes;
            F16 mean[3], quat[4], scale[3];
            gather_eights((const float*)mesh.frames, in.face_ids + n, count, lanes.frame);
            load_rows<3>(in.local_means + 3 * n, count, lanes.mean);
            load_rows<4>(in.local_quats + 4 * n, count, lanes.quat);
            load_rows<3>(in.local_scales + 3 * n, count, lanes.scale);
            if (in.flags & AV_LOG_SCALES)
                for (F16& s : lanes.scale) s = exp_(s);
            bind_lanes(lanes, mean, quat, scale);
            store_rows<3>(in.means + 3 * n, count, mean);
            store_rows<4>(in.quats + 4 * n, count, quat);
            store_rows<3>(in.scales + 3 * n, count, scale);
        }
    });
    return AV_OK;
}

static int32_t bind_backward(const AvBindBackward* args) {
    const AvBind& in = args->forward;
    const BindMesh mesh = bind_mesh(in.V, in.F, in.N, in.vertices, in.faces, in.face_ids, args->scratch);
    const int threads = in.launch.threads;
    const bool to_vertices = args->v_vertices != nullptr;
    if (!args->kept) face_frames(mesh, threads);
    parallel_for(threads, (in.N + BIND_BLOCK - 1) / BIND_BLOCK, [&](int64_t block, int) {
        const int64_t end = (block + 1) * BIND_BLOCK < in.N ? (block + 1) * BIND_BLOCK : in.N;
        for (int64_t n = block * BIND_BLOCK; n < end; n += 16) {
            const int count = end - n < 16 ? (int)(end - n) : 16;
            BindLanes lanes;
            F16 v_mean[3], v_quat[4], v_scale[3], v_local_mean[3], v_local_quat[4], rows[8];
            gather_eights((const float*)mesh.frames, in.face_ids + n, count, lanes.frame);
            load_rows<3>(in.local_means + 3 * n, count, lanes.mean);
            load_rows<4>(in.local_quats + 4 * n, count, lanes.quat);
            load_rows<3>(in.local_scales + 3 * n, count, lanes.scale);
            load_rows<3>(args->v_means + 3 * n, count, v_mean);
            load_rows<4>(args->v_quats + 4 * n, count, v_quat);
            load_rows<3>(args->v_scales + 3 * n, count, v_scale);
            if (in.flags & AV_LOG_SCALES)
                for (F16& s : lanes.scale) s = exp_(s);
            bind_lanes_backward(lanes, v_mean, v_quat, v_scale, v_local_mean, v_local_quat, to_vertices ? rows : nullptr);
            if (in.flags & AV_LOG_SCALES)
                for (int i = 0; i < 3; ++i) v_scale[i] = v_scale[i] * lanes.scale[i];
            store_rows<3>(args->v_local_means + 3 * n, count, v_local_mean);
            store_rows<4>(args->v_local_quats + 4 * n, count, v_local_quat);
            store_rows<3>(args->v_local_scales + 3 * n, count, v_scale);
            if (to_vertices) store_rows<8>((float*)(mesh.per_gaussian + n), count, rows);
        }
    });
    if (to_vertices) bind_to_vertices(mesh, args->v_vertices, threads);
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
