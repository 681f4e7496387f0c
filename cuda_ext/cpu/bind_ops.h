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
typedef float Four __attribute__((vector_size(16)));
typedef float Eight __attribute__((vector_size(32)));

struct FaceGradient {  // of one Gaussian, then summed per face
    float omega[3], k, c[3], used;
};

enum { BIND_BLOCK = 256, BIND_PARTS = 4 };  // parts: of the faces, each with sums of its own over the vertices

// The mesh, and what its gradient needs room for.
struct BindMesh {
    int64_t V, F, N;
    const float* vertices;
    const int64_t *faces, *face_ids;
    FaceFrame* frames;           // [F]
    FaceGradient* per_face;      // [F]
    FaceGradient* per_gaussian;  // [N]
    Four* per_vertex;            // [BIND_PARTS, V]
};

static int64_t bind_scratch(int64_t V, int64_t F, int64_t N) {
    return 64 + F * (int64_t)(sizeof(FaceFrame) + sizeof(FaceGradient)) + N * (int64_t)sizeof(FaceGradient) + BIND_PARTS * V * (int64_t)sizeof(Four);
}

static BindMesh bind_mesh(int64_t V, int64_t F, int64_t N, const float* vertices, const int64_t* faces, const int64_t* face_ids, void* scratch) {
    FaceFrame* frames = (FaceFrame*)(((uintptr_t)scratch + 63) / 64 * 64);
    FaceGradient* gradients = (FaceGradient*)(frames + F);
    return BindMesh{V, F, N, vertices, faces, face_ids, frames, gradients, gradients + F, (Four*)(gradients + F + N)};
}

// The corners of sixteen faces; beyond `count` the first again.
AV_INLINE void load_triangles(const BindMesh& in, const int64_t* ids, int count, F16 (*v)[3]) {
    for (int corner = 0; corner < 3; ++corner) {
        const float* row[16];
        bool more[16];
        for (int l = 0; l < 16; ++l) {
            const int64_t vertex = in.faces[3 * ids[l < count ? l : 0] + corner];
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
            int64_t ids[16];
            for (int l = 0; l < 16; ++l) ids[l] = f + l;
            F16 v[3][3], rows[8];
            Frame<F16> frame;
            load_triangles(in, ids, count, v);
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

// Whether any of the numbers lies in [low, high).
AV_INLINE bool any_within(const int64_t* numbers, int count, int64_t low, int64_t high) {
    int64_t any = 0;
    for (int i = 0; i < count; ++i) any |= (int64_t)(numbers[i] >= low) & (int64_t)(numbers[i] < high);
    return any != 0;
}

// Sums in an order that does not depend on who computes them. Of a face in that of its Gaussians: each task owns a range of faces, and
// passes over sixteen Gaussians at once that lie on none of them: they mostly lie in the order of the faces. Of a vertex by four parts.
static void bind_to_vertices(const BindMesh& in, float* v_vertices, int threads) {
    parallel_for(threads, threads, [&](int64_t task, int) {
        const int64_t low = task * in.F / threads, high = (task + 1) * in.F / threads;
        memset(in.per_face + low, 0, (size_t)(high - low) * sizeof *in.per_face);
        for (int64_t begin = 0; begin < in.N; begin += 16) {
            const int64_t end = begin + 16 < in.N ? begin + 16 : in.N;
            if (!any_within(in.face_ids + begin, (int)(end - begin), low, high)) continue;
            for (int64_t n = begin; n < end; ++n) {
                const int64_t f = in.face_ids[n];
                if (f < low || f >= high) continue;
                Eight sum, mine;
                memcpy(&sum, in.per_face + f, sizeof sum), memcpy(&mine, in.per_gaussian + n, sizeof mine);
                sum += mine;
                memcpy(in.per_face + f, &sum, sizeof sum);
            }
        }
    });
    parallel_for(threads, BIND_PARTS, [&](int64_t part, int) {
        const int64_t begin = part * in.F / BIND_PARTS, end = (part + 1) * in.F / BIND_PARTS;
        Four* const sums = in.per_vertex + part * in.V;
        memset(sums, 0, (size_t)in.V * sizeof *sums);
        int64_t used[16];  // faces that carry any: half of a head's
        int count = 0;
        for (int64_t f = begin; f < end; ++f) {
            used[count] = f;
            count += in.per_face[f].used > 0.0f;
            if (!(count == 16 || (count && f + 1 == end))) continue;
            F16 v[3][3], rows[8], out[3][4];
            gather_eights((const float*)in.per_face, used, count, rows);
            Frame<F16> frame;
            load_triangles(in, used, count, v);
            triangle_frame(v[0], v[1], v[2], frame);
            triangle_frame_backward(frame, rows, rows[3], rows + 4, out[0], out[1], out[2]);
            for (int corner = 0; corner < 3; ++corner) {
                Four add[16];
                out[corner][3] = F16(0.0f);
                store_rows<4>((float*)add, 16, out[corner]);
                for (int l = 0; l < count; ++l) sums[in.faces[3 * used[l] + corner]] += add[l];
            }
            count = 0;
        }
    });
    parallel_for(threads, (in.V + BIND_BLOCK - 1) / BIND_BLOCK, [&](int64_t block, int) {
        const int64_t end = (block + 1) * BIND_BLOCK < in.V ? (block + 1) * BIND_BLOCK : in.V;
        for (int64_t v = block * BIND_BLOCK; v < end; ++v) {
            Four total = in.per_vertex[v];
            for (int part = 1; part < BIND_PARTS; ++part) total += in.per_vertex[part * in.V + v];
            memcpy(v_vertices + 3 * v, &total, 3 * sizeof(float));
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
