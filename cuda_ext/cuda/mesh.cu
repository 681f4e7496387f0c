// Nearest triangle per pixel centre, by the rules of include/coverage.h: a thread per triangle lowers a 64-bit key of depth and face per
// pixel, then a thread per pixel finds the barycentrics of the winner.
#include "../include/coverage.h"
#include "platform.cuh"

namespace av {

constexpr int MESH_THREADS = 256, COVER_THREADS = 128;

__global__ void __launch_bounds__(MESH_THREADS) mesh_clear_kernel(unsigned long long* keys, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * MESH_THREADS + threadIdx.x;
    if (i < count) keys[i] = ~0ull;
}

__device__ inline void cover(const AvMesh& mesh, const double p[3][3], int64_t face, int x, int y, unsigned long long* image) {
    double b[3], z;
    if (!sees(mesh, p, x, y, b, &z)) return;
    atomicMin(&image[(int64_t)y * mesh.width + x], ((unsigned long long)__float_as_uint((float)z) << 32) | (unsigned long long)face);
}

// A thread per triangle; those with many pixels are shared out among the warp.
__global__ void __launch_bounds__(COVER_THREADS) mesh_cover_kernel(AvMesh mesh, unsigned long long* keys) {
    constexpr int64_t LARGE = 64;
    const int64_t face = (int64_t)blockIdx.x * COVER_THREADS + threadIdx.x;
    const int camera = blockIdx.y, lane = threadIdx.x & 31;
    double p[3][3] = {};
    PixelBox box = {0, 0, 0, 0};
    if (face < mesh.F && corners_of(mesh, camera, face, p)) box = box_of(mesh, p);
    const int64_t area = (int64_t)(box.x1 - box.x0) * (box.y1 - box.y0);
    unsigned long long* image = keys + (int64_t)camera * mesh.height * mesh.width;
    if (area <= LARGE) {
        for (int y = box.y0; y < box.y1; ++y) {
            for (int x = box.x0; x < box.x1; ++x) cover(mesh, p, face, x, y, image);
        }
    }
    unsigned pending = __ballot_sync(FULL, area > LARGE);
    while (pending) {
        const int source = __ffs(pending) - 1;
        pending &= pending - 1;
        double shared[3][3];
        for (int k = 0; k < 3; ++k) {
            for (int j = 0; j < 3; ++j) shared[k][j] = __shfl_sync(FULL, p[k][j], source);
        }
        const int left = __shfl_sync(FULL, box.x0, source), top = __shfl_sync(FULL, box.y0, source);
        const int wide = __shfl_sync(FULL, box.x1 - box.x0, source);
        const int64_t all = __shfl_sync(FULL, (long long)area, source), its_face = face - lane + source;
        for (int64_t i = lane; i < all; i += 32) cover(mesh, shared, its_face, left + (int)(i % wide), top + (int)(i / wide), image);
    }
}

__global__ void __launch_bounds__(MESH_THREADS) mesh_resolve_kernel(AvMesh mesh, const unsigned long long* keys) {
    const int64_t pixels = (int64_t)mesh.height * mesh.width;
    const int64_t at = (int64_t)blockIdx.x * MESH_THREADS + threadIdx.x;
    if (at >= mesh.C * pixels) return;
    const unsigned long long key = keys[at];
    double b[3] = {0, 0, 0}, z = 0;
    int face = -1;
    if (key != ~0ull) {
        face = (int)(key & 0xffffffffu);
        double p[3][3];
        if (corners_of(mesh, at / pixels, face, p)) sees(mesh, p, (int)(at % mesh.width), (int)(at % pixels / mesh.width), b, &z);
    }
    mesh.face_ids[at] = face;
    for (int k = 0; k < 3; ++k) mesh.barycentrics[3 * at + k] = (float)b[k];
    mesh.depth[at] = (float)z;
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
