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

static int64_t bind_scratch(int64_t, int64_t F, int64_t N) {
    return 64 + F * (int64_t)(sizeof(FaceFrame) + sizeof(FaceGradient) + 9 * sizeof(float)) + N * (int64_t)sizeof(FaceGradient);
}

AV_INLINE void load_triangles(const AvBind& in, int64_t f, int count, F16 (*v)[3]) {
    alignas(64) float lanes[9][16];
    for (int l = 0; l < 16; ++l) {
        const int64_t* face = in.faces + 3 * (f + (l < count ? l : 0));
        for (int corner = 0; corner < 3; ++corner)
            for (int i = 0; i < 3; ++i) lanes[3 * corner + i][l] = in.vertices[3 * face[corner] + i];
    }
    for (int corner = 0; corner < 3; ++corner)
        for (int i = 0; i < 3; ++i) v[corner][i] = load(lanes[3 * corner + i]);
}

static void face_frames(const AvBind& in, FaceFrame* frames) {
    parallel_for(in.launch.threads, (in.F + BIND_BLOCK - 1) / BIND_BLOCK, [&](int64_t block, int) {
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
            store_rows<8>((float*)(frames + f), count, rows);
        }
    });
}

AV_INLINE void load_frames(const FaceFrame* frames, const int64_t* ids, int count, F16* q, F16& k, F16* c) {
    alignas(64) float lanes[8][16];
    for (int l = 0; l < 16; ++l) {
        const float* row = (const float*)(frames + ids[l < count ? l : 0]);
        for (int i = 0; i < 8; ++i) lanes[i][l] = row[i];
    }
    for (int i = 0; i < 4; ++i) q[i] = load(lanes[i]);
    k = load(lanes[4]);
    for (int i = 0; i < 3; ++i) c[i] = load(lanes[5 + i]);
}

static int32_t bind_forward(const AvBind* args) {
    const AvBind& in = *args;
    FaceFrame* frames = (FaceFrame*)(((uintptr_t)in.scratch + 63) / 64 * 64);
    face_frames(in, frames);
    parallel_for(in.launch.threads, (in.N + BIND_BLOCK - 1) / BIND_BLOCK, [&](int64_t block, int) {
        const int64_t end = (block + 1) * BIND_BLOCK < in.N ? (block + 1) * BIND_BLOCK : in.N;
        for (int64_t n = block * BIND_BLOCK; n < end; n += 16) {
            const int count = end - n < 16 ? (int)(end - n) : 16;
            F16 q[4], k, c[3], mean[3], quat[4], scale[3], out[4];
            load_frames(frames, in.face_ids + n, count, q, k, c);
            load_rows<3>(in.local_means + 3 * n, count, mean);
            load_rows<4>(in.local_quats + 4 * n, count, quat);
            load_rows<3>(in.local_scales + 3 * n, count, scale);
            quat_rotate(q, mean, out);
            for (int i = 0; i < 3; ++i) out[i] = fma_(k, out[i], c[i]);
            store_rows<3>(in.means + 3 * n, count, out);
            quat_multiply(q, quat, out);
            store_rows<4>(in.quats + 4 * n, count, out);
            for (int i = 0; i < 3; ++i) scale[i] = k * (in.flags & AV_LOG_SCALES ? exp_(scale[i]) : scale[i]);
            store_rows<3>(in.scales + 3 * n, count, scale);
        }
    });
    return AV_OK;
}

static int32_t bind_backward(const AvBindBackward* args) {
    const AvBind& in = args->forward;
    char* at = (char*)(((uintptr_t)args->scratch + 63) / 64 * 64);
    FaceFrame* frames = (FaceFrame*)at;
    FaceGradient* per_face = (FaceGradient*)(frames + in.F);
    FaceGradient* per_gaussian = per_face + in.F;
    float* corners = (float*)(per_gaussian + in.N);  // [F, 9]
    const int threads = in.launch.threads;
    const bool to_vertices = args->v_vertices != nullptr;
    if (!args->kept) face_frames(in, frames);
    parallel_for(threads, (in.N + BIND_BLOCK - 1) / BIND_BLOCK, [&](int64_t block, int) {
        const int64_t end = (block + 1) * BIND_BLOCK < in.N ? (block + 1) * BIND_BLOCK : in.N;
        for (int64_t n = block * BIND_BLOCK; n < end; n += 16) {
            const int count = end - n < 16 ? (int)(end - n) : 16;
            F16 q[4], k, c[3], mean[3], quat[4], scale[3], v_mean[3], v_quat[4], v_scale[3], out[4], back[4];
            load_frames(frames, in.face_ids + n, count, q, k, c);
            load_rows<3>(in.local_means + 3 * n, count, mean);
            load_rows<4>(in.local_quats + 4 * n, count, quat);
            load_rows<3>(in.local_scales + 3 * n, count, scale);
            load_rows<3>(args->v_means + 3 * n, count, v_mean);
            load_rows<4>(args->v_quats + 4 * n, count, v_quat);
            load_rows<3>(args->v_scales + 3 * n, count, v_scale);
            back[0] = q[0];
            for (int i = 1; i < 4; ++i) back[i] = -q[i];
            F16 turned[3], v_local[3];
            quat_rotate(back, v_mean, turned);  // Rᵀ v_mean
            for (int i = 0; i < 3; ++i) v_local[i] = k * turned[i];
            store_rows<3>(args->v_local_means + 3 * n, count, v_local);
            quat_multiply(back, v_quat, out);  // the transpose of left multiplication by a unit quaternion
            store_rows<4>(args->v_local_quats + 4 * n, count, out);
            F16 v_k = dot(turned, mean);
            F16 v_s[3];
            for (int i = 0; i < 3; ++i) {
                const F16 plain = in.flags & AV_LOG_SCALES ? exp_(scale[i]) : scale[i];
                v_k = fma_(v_scale[i], plain, v_k);
                v_s[i] = k * v_scale[i] * (in.flags & AV_LOG_SCALES ? plain : F16(1.0f));
            }
            store_rows<3>(args->v_local_scales + 3 * n, count, v_s);
            if (!to_vertices) continue;
            F16 rows[8], world[3], moment[3], p[4];
            quat_rotate(q, mean, world);
            cross(world, v_mean, moment);  // δ(k R m) = ω × (k R m)
            quat_multiply(q, quat, p);     // δp = ½ (0, ω) ⊗ p
            const F16 half = F16(0.5f);
            rows[0] = fma_(k, moment[0], half * (p[0] * v_quat[1] - p[1] * v_quat[0] - p[3] * v_quat[2] + p[2] * v_quat[3]));
            rows[1] = fma_(k, moment[1], half * (p[0] * v_quat[2] - p[2] * v_quat[0] + p[3] * v_quat[1] - p[1] * v_quat[3]));
            rows[2] = fma_(k, moment[2], half * (p[0] * v_quat[3] - p[3] * v_quat[0] - p[2] * v_quat[1] + p[1] * v_quat[2]));
            rows[3] = v_k;
            for (int i = 0; i < 3; ++i) rows[4 + i] = v_mean[i];
            rows[7] = F16(1.0f);
            store_rows<8>((float*)(per_gaussian + n), count, rows);
        }
    });
    if (!to_vertices) return AV_OK;
    // Sums in the order of the Gaussians, whoever computes them: each task owns a range of faces, then of vertices.
    parallel_for(threads, threads, [&](int64_t task, int) {
        const int64_t low = task * in.F / threads, high = (task + 1) * in.F / threads;
        memset(per_face + low, 0, (size_t)(high - low) * sizeof *per_face);
        for (int64_t n = 0; n < in.N; ++n) {
            const int64_t f = in.face_ids[n];
            if (f < low || f >= high) continue;
            float* to = (float*)(per_face + f);
            const float* from = (const float*)(per_gaussian + n);
            for (int i = 0; i < 8; ++i) to[i] += from[i];
        }
    });
    parallel_for(threads, (in.F + BIND_BLOCK - 1) / BIND_BLOCK, [&](int64_t block, int) {
        const int64_t end = (block + 1) * BIND_BLOCK < in.F ? (block + 1) * BIND_BLOCK : in.F;
        for (int64_t f = block * BIND_BLOCK; f < end; f += 16) {
            const int count = end - f < 16 ? (int)(end - f) : 16;
            F16 v[3][3], rows[8], out[9];
            Frame<F16> frame;
            load_triangles(in, f, count, v);
            triangle_frame(v[0], v[1], v[2], frame);
            load_rows<8>((const float*)(per_face + f), count, rows);
            triangle_frame_backward(frame, rows, rows[3], rows + 4, out, out + 3, out + 6);
            store_rows<9>(corners + 9 * f, count, out);
        }
    });
    parallel_for(threads, threads, [&](int64_t task, int) {
        const int64_t low = task * in.V / threads, high = (task + 1) * in.V / threads;
        memset(args->v_vertices + 3 * low, 0, (size_t)(high - low) * 3 * sizeof(float));
        for (int64_t f = 0; f < in.F; ++f) {
            if (per_face[f].used == 0.0f) continue;
            for (int corner = 0; corner < 3; ++corner) {
                const int64_t vertex = in.faces[3 * f + corner];
                if (vertex < low || vertex >= high) continue;
                for (int i = 0; i < 3; ++i) args->v_vertices[3 * vertex + i] += corners[9 * f + 3 * corner + i];
            }
        }
    });
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
