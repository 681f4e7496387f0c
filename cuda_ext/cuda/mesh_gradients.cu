// Gradients of the mesh rasteriser and interpolation of vertex attributes: a thread per pixel, sums by atomics. Rules: include/mesh.h.
#include "../include/mesh.h"
#include "platform.cuh"

namespace av {

constexpr int PIXEL_THREADS = 256;

__global__ void __launch_bounds__(PIXEL_THREADS) mesh_sums_kernel(AvMeshBackward args, float* sums) {
    const AvMesh& in = args.forward;
    const int64_t pixels = (int64_t)in.width * in.height, i = (int64_t)blockIdx.x * PIXEL_THREADS + threadIdx.x;
    if (i >= in.C * pixels) return;
    const int64_t face = in.face_ids[i];
    if (face < 0 || face >= in.F) return;
    const float *b = in.barycentrics + 3 * i, z = in.depth[i];
    double v_e[3];
    edge_gradient(b, z, args.v_barycentrics + 3 * i, args.v_depth[i], v_e);
    float* sum = sums + 9 * (i / pixels * in.F + face);
    for (int k = 0; k < 3; ++k)
        for (int j = 0; j < 3; ++j) atomicAdd(sum + 3 * k + j, (float)(v_e[k] * b[j] / z));
}

__global__ void __launch_bounds__(PIXEL_THREADS) mesh_corners_kernel(AvMeshBackward args, const float* sums) {
    const AvMesh& in = args.forward;
    const int64_t i = (int64_t)blockIdx.x * PIXEL_THREADS + threadIdx.x;
    if (i >= in.C * in.F) return;
    const int64_t camera = i / in.F, face = i % in.F;
    const float* sum = sums + 9 * i;
    bool any = false;
    for (int k = 0; k < 9; ++k) any = any || sum[k] != 0;
    if (!any) return;
    double P[3][3], v[3][3];
    for (int k = 0; k < 3; ++k) to_pixels(in.Ks + 9 * camera, in.vertices + 3 * (camera * in.V + in.faces[3 * face + k]), P[k]);
    corner_gradients(P, sum, v);
    for (int k = 0; k < 3; ++k)
        for (int j = 0; j < 3; ++j) atomicAdd(args.v_points + 3 * (camera * in.V + in.faces[3 * face + k]) + j, (float)v[k][j]);
}

// The rows of attributes at the corners of a pixel's triangle; false where there is none.
__device__ inline bool attribute_rows(const AvInterpolate& in, int64_t pixel, int64_t rows[3]) {
    const int64_t face = in.face_ids[pixel], camera = pixel / ((int64_t)in.width * in.height);
    if (face < 0 || face >= in.F) return false;
    for (int k = 0; k < 3; ++k) {
        const int64_t vertex = in.faces[3 * face + k];
        if ((uint64_t)vertex >= (uint64_t)in.V) return false;
        rows[k] = ((in.shared ? 0 : camera * in.V) + vertex) * in.channels;
    }
    return true;
}

__global__ void __launch_bounds__(PIXEL_THREADS) interpolate_kernel(AvInterpolate in) {
    const int64_t i = (int64_t)blockIdx.x * PIXEL_THREADS + threadIdx.x;
    if (i >= in.C * in.width * in.height) return;
    int64_t rows[3];
    const bool hit = attribute_rows(in, i, rows);
    const float* b = in.barycentrics + 3 * i;
    for (int d = 0; d < in.channels; ++d) {
        float value = 0;
        if (hit)
            for (int k = 0; k < 3; ++k) value += b[k] * in.attributes[rows[k] + d];
        in.out[i * in.channels + d] = value;
    }
}

__global__ void __launch_bounds__(PIXEL_THREADS) interpolate_backward_kernel(AvInterpolate in) {
    const int64_t i = (int64_t)blockIdx.x * PIXEL_THREADS + threadIdx.x;
    if (i >= in.C * in.width * in.height) return;
    int64_t rows[3];
    const bool hit = attribute_rows(in, i, rows);
    for (int k = 0; k < 3; ++k) {
        float total = 0;
        const float b = in.barycentrics[3 * i + k];
        for (int d = 0; hit && d < in.channels; ++d) {
            const float v = in.v_out[i * in.channels + d];
            total += in.attributes[rows[k] + d] * v;
            if (in.v_attributes) atomicAdd(in.v_attributes + rows[k] + d, b * v);
        }
        in.v_barycentrics[3 * i + k] = total;
    }
}

}  // namespace av

extern "C" {

int64_t av_mesh_backward_scratch(int64_t C, int64_t F) { return C * F * 9 * (int64_t)sizeof(float); }

int32_t av_mesh_backward(const AvMeshBackward* args) {
    using namespace av;
    const AvMesh& in = args->forward;
    const int64_t needed = av_mesh_backward_scratch(in.C, in.F);
    if (args->scratch_bytes < needed) return fail(AV_INVALID, "mesh: the workspace is smaller than av_mesh_backward_scratch says");
    const OnDevice device(in.launch);
    const cudaStream_t stream = stream_of(in.launch);
    float* sums = static_cast<float*>(args->scratch);
    clear(sums, needed, stream);
    clear(args->v_points, in.C * in.V * 3 * sizeof(float), stream);
    launch(mesh_sums_kernel, dim3(blocks_for(in.C * in.width * in.height, PIXEL_THREADS)), dim3(PIXEL_THREADS), stream, *args, sums);
    launch(mesh_corners_kernel, dim3(blocks_for(in.C * in.F, PIXEL_THREADS)), dim3(PIXEL_THREADS), stream, *args, sums);
    return finish("mesh backward");
}

int32_t av_interpolate_forward(const AvInterpolate* args) {
    using namespace av;
    const OnDevice device(args->launch);
    const int64_t pixels = args->C * args->width * args->height;
    launch(interpolate_kernel, dim3(blocks_for(pixels, PIXEL_THREADS)), dim3(PIXEL_THREADS), stream_of(args->launch), *args);
    return finish("interpolate");
}

int32_t av_interpolate_backward(const AvInterpolate* args) {
    using namespace av;
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    const int64_t pixels = args->C * args->width * args->height, owners = args->shared ? 1 : args->C;
    if (args->v_attributes) clear(args->v_attributes, owners * args->V * args->channels * sizeof(float), stream);
    launch(interpolate_backward_kernel, dim3(blocks_for(pixels, PIXEL_THREADS)), dim3(PIXEL_THREADS), stream, *args);
    return finish("interpolate backward");
}

}  // extern "C"
