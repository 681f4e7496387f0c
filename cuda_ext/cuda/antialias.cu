// Antialiased silhouettes: a thread per edge raises the keys of the pairs that it passes, a thread per pixel gathers what its four
// pairs exchange, and on the way back a thread per pair finds the gradient of its edge. Rules: include/mesh.h.
#include "../include/mesh.h"
#include "platform.cuh"

namespace av {

constexpr int EDGE_THREADS = 128, PAIR_THREADS = 256;

__global__ void __launch_bounds__(EDGE_THREADS) silhouette_kernel(AvAntialias in) {
    const int64_t edge = (int64_t)blockIdx.x * EDGE_THREADS + threadIdx.x, camera = blockIdx.y;
    if (edge >= in.E) return;
    const Silhouette s = find_silhouette(in, camera, edge);
    if (!s.valid) return;
    const int64_t image = camera * in.height * in.width;
    for (int index = s.first; index < s.end; ++index) {
        const Passage p = pass_at(in, s, index);
        if (!p.inside) continue;
        const int64_t at = image + (s.steep ? (int64_t)index * in.width + p.at : (int64_t)p.at * in.width + index);
        if (!shows(p, s, in.depth[at], in.depth[s.steep ? at + 1 : at + in.width])) continue;
        atomicMax(reinterpret_cast<unsigned long long*>(in.keys) + 2 * at + (s.steep ? 0 : 1),
                  (unsigned long long)key_of(p.extent, edge));
    }
}

struct Pairs {  // of one pixel; those that are not there have any = false
    Exchange exchange[4];
    int64_t partner[4];
    bool first[4];
};

__device__ inline Pairs pairs_of(const AvAntialias& in, int64_t at) {
    const int64_t width = in.width, x = at % width, y = at / width % in.height;
    const int64_t owner[4] = {2 * at, 2 * at + 1, x > 0 ? 2 * at - 2 : -1, y > 0 ? 2 * (at - width) + 1 : -1};
    const int64_t partner[4] = {at + 1, at + width, at - 1, at - width};
    Pairs pairs;
    for (int i = 0; i < 4; ++i) {
        const uint64_t key = owner[i] < 0 ? 0 : in.keys[owner[i]];
        pairs.exchange[i].any = false;
        if (!key) continue;
        pairs.first[i] = i < 2, pairs.partner[i] = partner[i];
        pairs.exchange[i] = exchange_of(key, in.depth[i < 2 ? at : partner[i]], in.depth[i < 2 ? partner[i] : at]);
    }
    return pairs;
}

__global__ void __launch_bounds__(PAIR_THREADS) antialias_kernel(AvAntialias in) {
    const int64_t at = (int64_t)blockIdx.x * PAIR_THREADS + threadIdx.x, D = in.channels;
    if (at >= in.C * in.height * in.width) return;
    const Pairs pairs = pairs_of(in, at);
    for (int64_t d = 0; d < D; ++d) {
        const float mine = in.image[at * D + d];
        float value = mine;
        for (int i = 0; i < 4; ++i) {
            const Exchange& e = pairs.exchange[i];
            if (e.any && e.first_takes == pairs.first[i]) value += e.amount * (in.image[pairs.partner[i] * D + d] - mine);
        }
        in.out[at * D + d] = value;
    }
}

__global__ void __launch_bounds__(PAIR_THREADS) antialias_image_kernel(AvAntialias in) {
    const int64_t at = (int64_t)blockIdx.x * PAIR_THREADS + threadIdx.x, D = in.channels;
    if (at >= in.C * in.height * in.width) return;
    const Pairs pairs = pairs_of(in, at);
    for (int64_t d = 0; d < D; ++d) {
        float value = in.v_out[at * D + d];
        for (int i = 0; i < 4; ++i) {
            const Exchange& e = pairs.exchange[i];
            if (!e.any) continue;
            const bool takes = e.first_takes == pairs.first[i];
            value += takes ? -e.amount * in.v_out[at * D + d] : e.amount * in.v_out[pairs.partner[i] * D + d];
        }
        in.v_image[at * D + d] = value;
    }
}

__global__ void __launch_bounds__(PAIR_THREADS) antialias_points_kernel(AvAntialias in) {
    const int64_t slot = (int64_t)blockIdx.x * PAIR_THREADS + threadIdx.x, D = in.channels, pixels = (int64_t)in.width * in.height;
    if (slot >= 2 * in.C * pixels) return;
    const uint64_t key = in.keys[slot];
    if (!key) return;
    const int64_t at = slot / 2, next = slot % 2 ? at + in.width : at + 1, camera = at / pixels, pixel = at % pixels;
    const Exchange e = exchange_of(key, in.depth[at], in.depth[next]);
    const int64_t taker = e.first_takes ? at : next, giver = e.first_takes ? next : at;
    double v_extent = 0, v[2][3];
    for (int64_t d = 0; d < D; ++d) v_extent += (double)(in.image[giver * D + d] - in.image[taker * D + d]) * in.v_out[taker * D + d];
    const Silhouette s = find_silhouette(in, camera, e.edge);
    silhouette_gradient(in, s, (int)(slot % 2 ? pixel % in.width : pixel / in.width), e.slope * v_extent, v[0], v[1]);
    for (int k = 0; k < 2; ++k)
        for (int j = 0; j < 3; ++j) atomicAdd(in.v_points + 3 * (camera * in.V + in.edges[4 * e.edge + k]) + j, (float)v[k][j]);
}

static int32_t refused(const AvAntialias& in) {
    if (in.C > 65535 || in.E > 0x7fffffff) return fail(AV_INVALID, "antialias: too many cameras or edges for one call");
    return AV_OK;
}

}  // namespace av

extern "C" {

int64_t av_antialias_scratch(int64_t, int64_t) { return 0; }

int32_t av_antialias_forward(const AvAntialias* args) {
    using namespace av;
    if (const int32_t status = refused(*args)) return status;
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    const int64_t pixels = args->C * args->height * args->width;
    clear(args->keys, 2 * pixels * sizeof(uint64_t), stream);
    launch(silhouette_kernel, dim3(blocks_for(args->E, EDGE_THREADS), (unsigned)args->C), dim3(EDGE_THREADS), stream, *args);
    launch(antialias_kernel, dim3(blocks_for(pixels, PAIR_THREADS)), dim3(PAIR_THREADS), stream, *args);
    return finish("antialias");
}

int32_t av_antialias_backward(const AvAntialias* args) {
    using namespace av;
    if (const int32_t status = refused(*args)) return status;
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    const int64_t pixels = args->C * args->height * args->width;
    clear(args->v_points, args->C * args->V * 3 * sizeof(float), stream);
    launch(antialias_image_kernel, dim3(blocks_for(pixels, PAIR_THREADS)), dim3(PAIR_THREADS), stream, *args);
    launch(antialias_points_kernel, dim3(blocks_for(2 * pixels, PAIR_THREADS)), dim3(PAIR_THREADS), stream, *args);
    return finish("antialias backward");
}

}  // extern "C"
