// Nearest triangle per pixel centre: a thread per triangle lowers a 64-bit depth-and-face key per pixel, then a thread per pixel
// finds the barycentrics of the winner. Homogeneous edge functions (Olano & Greer 1997), so that nothing is clipped; in
// double, so that neighbours agree about the pixels on their common edge.
#include "platform.cuh"

namespace av {

constexpr int MESH_THREADS = 256, COVER_THREADS = 128;

struct Triangle {
    double edge[3][3];  // barycentric k divided by depth at the pixel (x, y) = edge[k]·(x, y, 1)
    bool valid, in_front;
    double u0, u1, v0, v1;  // box when all corners are in front of the near plane
};

__device__ inline Triangle triangle_of(const AvMesh& mesh, int camera, int64_t face) {
    Triangle t;
    t.valid = false;
    const float* vertices = mesh.vertices + camera * mesh.V * 3;
    const float* K = mesh.Ks + 9 * camera;
    double p[3][3];
    int front = 0;
    for (int i = 0; i < 3; ++i) {
        const int64_t corner = mesh.faces[3 * face + i];
        if ((uint64_t)corner >= (uint64_t)mesh.V) return t;
        const float* vertex = vertices + 3 * corner;
        const double x = vertex[0], y = vertex[1], z = vertex[2];
        for (int j = 0; j < 3; ++j) p[i][j] = K[3 * j] * x + K[3 * j + 1] * y + K[3 * j + 2] * z;
        front += p[i][2] >= mesh.near_plane;
    }
    for (int k = 0; k < 3; ++k) {
        const double *a = p[(k + 1) % 3], *b = p[(k + 2) % 3];
        t.edge[k][0] = a[1] * b[2] - a[2] * b[1];
        t.edge[k][1] = a[2] * b[0] - a[0] * b[2];
        t.edge[k][2] = a[0] * b[1] - a[1] * b[0];
    }
    const double det = p[0][0] * t.edge[0][0] + p[0][1] * t.edge[0][1] + p[0][2] * t.edge[0][2];
    if (!(fabs(det) <= 1.7e308) || det == 0 || front == 0 || (mesh.cull_back && det > 0)) return t;
    for (int k = 0; k < 3; ++k) {
        for (int j = 0; j < 3; ++j) t.edge[k][j] /= det;
    }
    t.valid = true;
    t.in_front = front == 3;
    if (t.in_front) {
        t.u0 = t.v0 = 1e30, t.u1 = t.v1 = -1e30;
        for (int i = 0; i < 3; ++i) {
            const double u = p[i][0] / p[i][2], v = p[i][1] / p[i][2];
            t.u0 = fmin(t.u0, u), t.u1 = fmax(t.u1, u), t.v0 = fmin(t.v0, v), t.v1 = fmax(t.v1, v);
        }
    }
    return t;
}

__device__ inline bool evaluate(const Triangle& t, int x, int y, double e[3], double& z) {
    for (int k = 0; k < 3; ++k) e[k] = t.edge[k][0] * (x + 0.5) + t.edge[k][1] * (y + 0.5) + t.edge[k][2];
    const double inverse = e[0] + e[1] + e[2];
    z = 1.0 / inverse;
    return e[0] >= 0 && e[1] >= 0 && e[2] >= 0 && inverse > 0;
}

__global__ void __launch_bounds__(MESH_THREADS) mesh_clear_kernel(unsigned long long* keys, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * MESH_THREADS + threadIdx.x;
    if (i < count) keys[i] = ~0ull;
}

struct Box {
    int left, top, wide, high;
};

// Pixels whose centres may lie in the triangle.
__device__ inline Box box_of(const AvMesh& mesh, const Triangle& t) {
    if (!t.valid) return {0, 0, 0, 0};
    if (!t.in_front) return {0, 0, mesh.width, mesh.height};
    const double right = mesh.width, bottom = mesh.height;
    const int left = (int)fmin(fmax(ceil(t.u0 - 0.5), 0.0), right), top = (int)fmin(fmax(ceil(t.v0 - 0.5), 0.0), bottom);
    return {left, top, max((int)fmax(fmin(floor(t.u1 + 0.5), right), 0.0) - left, 0),
            max((int)fmax(fmin(floor(t.v1 + 0.5), bottom), 0.0) - top, 0)};
}

__device__ inline void cover(const AvMesh& mesh, const Triangle& t, int64_t face, int x, int y, unsigned long long* image) {
    double e[3], z;
    if (!evaluate(t, x, y, e, z) || !(z >= mesh.near_plane)) return;
    atomicMin(&image[(int64_t)y * mesh.width + x], ((unsigned long long)__float_as_uint((float)z) << 32) | (unsigned long long)face);
}

// A thread per triangle; those with many pixels are shared out among the warp.
__global__ void __launch_bounds__(COVER_THREADS) mesh_cover_kernel(AvMesh mesh, unsigned long long* keys) {
    constexpr int64_t LARGE = 64;
    const int64_t face = (int64_t)blockIdx.x * COVER_THREADS + threadIdx.x;
    const int camera = blockIdx.y, lane = threadIdx.x & 31;
    Triangle t;
    t.valid = false;
    if (face < mesh.F) t = triangle_of(mesh, camera, face);
    const Box box = box_of(mesh, t);
    const int64_t area = (int64_t)box.wide * box.high;
    unsigned long long* image = keys + (int64_t)camera * mesh.height * mesh.width;
    if (area <= LARGE) {
        for (int y = box.top; y < box.top + box.high; ++y) {
            for (int x = box.left; x < box.left + box.wide; ++x) cover(mesh, t, face, x, y, image);
        }
    }
    unsigned pending = __ballot_sync(FULL, area > LARGE);
    while (pending) {
        const int source = __ffs(pending) - 1;
        pending &= pending - 1;
        Triangle shared;
        for (int k = 0; k < 3; ++k) {
            for (int j = 0; j < 3; ++j) {
                const double mine = area > LARGE ? t.edge[k][j] : 0.0;
                shared.edge[k][j] = __shfl_sync(FULL, mine, source);
            }
        }
        const int left = __shfl_sync(FULL, box.left, source), top = __shfl_sync(FULL, box.top, source);
        const int wide = __shfl_sync(FULL, box.wide, source);
        const int64_t all = __shfl_sync(FULL, (long long)area, source), its_face = face - lane + source;
        for (int64_t i = lane; i < all; i += 32) cover(mesh, shared, its_face, left + (int)(i % wide), top + (int)(i / wide), image);
    }
}

__global__ void __launch_bounds__(MESH_THREADS) mesh_resolve_kernel(AvMesh mesh, const unsigned long long* keys) {
    const int64_t pixels = (int64_t)mesh.height * mesh.width;
    const int64_t at = (int64_t)blockIdx.x * MESH_THREADS + threadIdx.x;
    if (at >= mesh.C * pixels) return;
    const unsigned long long key = keys[at];
    float b[3] = {0, 0, 0}, depth = 0;
    int face = -1;
    if (key != ~0ull) {
        face = (int)(key & 0xffffffffu);
        const int camera = (int)(at / pixels), x = (int)(at % mesh.width), y = (int)(at % pixels / mesh.width);
        double e[3], z;
        evaluate(triangle_of(mesh, camera, face), x, y, e, z);
        for (int k = 0; k < 3; ++k) b[k] = (float)(e[k] * z);
        depth = (float)z;
    }
    mesh.face_ids[at] = face;
    for (int k = 0; k < 3; ++k) mesh.barycentrics[3 * at + k] = b[k];
    mesh.depth[at] = depth;
}

}  // namespace av

extern "C" {

int64_t av_mesh_scratch(int64_t C, int64_t, int64_t, int32_t width, int32_t height) {
    return C * height * width * (int64_t)sizeof(unsigned long long);
}

int32_t av_mesh_rasterize(const AvMesh* args) {
    using namespace av;
    if (args->C > 65535 || args->F > 0x7fffffff) return fail(AV_INVALID, "mesh: too many cameras or faces for one call");
    if (args->scratch_bytes < av_mesh_scratch(args->C, args->V, args->F, args->width, args->height)) {
        return fail(AV_INVALID, "mesh: the workspace is smaller than av_mesh_scratch says");
    }
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    const int64_t pixels = args->C * args->height * args->width;
    unsigned long long* keys = static_cast<unsigned long long*>(args->scratch);
    launch(mesh_clear_kernel, dim3(blocks_for(pixels, MESH_THREADS)), dim3(MESH_THREADS), stream, keys, pixels);
    launch(mesh_cover_kernel, dim3(blocks_for(args->F, COVER_THREADS), (unsigned)args->C), dim3(COVER_THREADS), stream, *args,
           keys);
    launch(mesh_resolve_kernel, dim3(blocks_for(pixels, MESH_THREADS)), dim3(MESH_THREADS), stream, *args, keys);
    return finish("mesh");
}

}  // extern "C"
