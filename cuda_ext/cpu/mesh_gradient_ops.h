// Gradients of a mesh's image, interpolation of vertex attributes, antialiased silhouettes. Rules: include/mesh.h. Sums run in the order
// of the pixels, whoever computes them: each task owns a range of triangles, then of vertices.
#pragma once
#include "../include/abi.h"
#include "../include/mesh.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

enum { EDGE_BLOCK = 512, IMAGE_BAND = 16 };

static int64_t mesh_backward_scratch(int64_t C, int64_t F) { return 64 + C * F * 9 * (int64_t)sizeof(double); }

static int32_t mesh_backward(const AvMeshBackward* args) {
    const AvMesh& in = args->forward;
    double* sums = (double*)(((uintptr_t)args->scratch + 63) / 64 * 64);  // [C, F, 9]
    const int64_t pixels = (int64_t)in.width * in.height, parts = in.launch.threads;
    parallel_for(in.launch.threads, in.C * parts, [&](int64_t task, int) {
        const int64_t c = task / parts, low = task % parts * in.F / parts, high = (task % parts + 1) * in.F / parts;
        memset(sums + 9 * (c * in.F + low), 0, (size_t)(high - low) * 9 * sizeof(double));
        for (int64_t i = c * pixels; i < (c + 1) * pixels; ++i) {
            const int64_t f = in.face_ids[i];
            if (f < low || f >= high) continue;
            const float *b = in.barycentrics + 3 * i, z = in.depth[i];
            double v_e[3], *sum = sums + 9 * (c * in.F + f);
            edge_gradient(b, z, args->v_barycentrics + 3 * i, args->v_depth[i], v_e);
            for (int k = 0; k < 3; ++k)
                for (int j = 0; j < 3; ++j) sum[3 * k + j] += v_e[k] * b[j] / z;
        }
    });
    parallel_for(in.launch.threads, in.C, [&](int64_t c, int) {
        if (in.V > 0) memset(args->v_points + 3 * c * in.V, 0, (size_t)in.V * 3 * sizeof(float));
        for (int64_t f = 0; f < in.F; ++f) {
            const double* sum = sums + 9 * (c * in.F + f);
            bool any = false;
            for (int k = 0; k < 9; ++k) any |= sum[k] != 0;
            if (!any) continue;
            double P[3][3], v[3][3];
            for (int i = 0; i < 3; ++i) to_pixels(in.Ks + 9 * c, in.vertices + 3 * (c * in.V + in.faces[3 * f + i]), P[i]);
            corner_gradients(P, sum, v);
            for (int i = 0; i < 3; ++i)
                for (int j = 0; j < 3; ++j) args->v_points[3 * (c * in.V + in.faces[3 * f + i]) + j] += (float)v[i][j];
        }
    });
    return AV_OK;
}

static const float* attribute_of(const AvInterpolate& in, int64_t camera, int64_t vertex) {
    return in.attributes + ((in.shared ? 0 : camera * in.V) + vertex) * in.channels;
}

static int32_t interpolate_forward(const AvInterpolate* args) {
    const AvInterpolate& in = *args;
    const int64_t pixels = (int64_t)in.width * in.height, block = 4096, D = in.channels;
    parallel_for(in.launch.threads, (in.C * pixels + block - 1) / block, [&](int64_t task, int) {
        const int64_t end = (task + 1) * block < in.C * pixels ? (task + 1) * block : in.C * pixels;
        for (int64_t i = task * block; i < end; ++i) {
            float* out = in.out + i * D;
            const int64_t f = in.face_ids[i];
            for (int64_t d = 0; d < D; ++d) out[d] = 0.0f;
            if (f < 0 || f >= in.F) continue;
            for (int k = 0; k < 3; ++k) {
                const float *from = attribute_of(in, i / pixels, in.faces[3 * f + k]), b = in.barycentrics[3 * i + k];
                for (int64_t d = 0; d < D; ++d) out[d] += b * from[d];
            }
        }
    });
    return AV_OK;
}

static int32_t interpolate_backward(const AvInterpolate* args) {
    const AvInterpolate& in = *args;
    const int64_t pixels = (int64_t)in.width * in.height, block = 4096, D = in.channels;
    parallel_for(in.launch.threads, (in.C * pixels + block - 1) / block, [&](int64_t task, int) {
        const int64_t end = (task + 1) * block < in.C * pixels ? (task + 1) * block : in.C * pixels;
        for (int64_t i = task * block; i < end; ++i) {
            const int64_t f = in.face_ids[i];
            for (int k = 0; k < 3; ++k) {
                float total = 0.0f;
                if (f >= 0 && f < in.F) {
                    const float *from = attribute_of(in, i / pixels, in.faces[3 * f + k]), *v = in.v_out + i * D;
                    for (int64_t d = 0; d < D; ++d) total += from[d] * v[d];
                }
                in.v_barycentrics[3 * i + k] = total;
            }
        }
    });
    if (!in.v_attributes) return AV_OK;
    const int64_t owners = in.shared ? 1 : in.C, parts = in.launch.threads;
    parallel_for(in.launch.threads, owners * parts, [&](int64_t task, int) {
        const int64_t c = task / parts, low = task % parts * in.V / parts, high = (task % parts + 1) * in.V / parts;
        float* rows = in.v_attributes + c * in.V * D;
        if (high > low) memset(rows + low * D, 0, (size_t)((high - low) * D) * sizeof(float));
        for (int64_t i = c * pixels; i < (in.shared ? in.C : c + 1) * pixels; ++i) {
            const int64_t f = in.face_ids[i];
            if (f < 0 || f >= in.F) continue;
            for (int k = 0; k < 3; ++k) {
                const int64_t vertex = in.faces[3 * f + k];
                if (vertex < low || vertex >= high) continue;
                const float b = in.barycentrics[3 * i + k], *v = in.v_out + i * D;
                for (int64_t d = 0; d < D; ++d) rows[vertex * D + d] += b * v[d];
            }
        }
    });
    return AV_OK;
}

static int64_t antialias_scratch(int64_t C, int64_t E) {
    return 64 + C * (E * (int64_t)sizeof(Silhouette) + (E / EDGE_BLOCK + 1) * (int64_t)sizeof(int64_t));
}

static void keys_of_band(const AvAntialias& in, int64_t c, int y0, int y1, const Silhouette* found, const int64_t* counts) {
    const int64_t width = in.width, blocks = (in.E + EDGE_BLOCK - 1) / EDGE_BLOCK;
    uint64_t* keys = in.keys + 2 * c * in.height * width;
    const float* depth = in.depth + c * in.height * width;
    memset(keys + 2 * y0 * width, 0, (size_t)((y1 - y0) * width) * 2 * sizeof(uint64_t));
    for (int64_t block = 0; block < blocks; ++block) {
        for (int64_t n = 0; n < counts[block]; ++n) {
            const Silhouette& s = found[block * EDGE_BLOCK + n];
            if (s.high <= y0 || s.low >= y1) continue;
            const int begin = s.steep && s.first < y0 ? y0 : s.first, end = s.steep && s.end > y1 ? y1 : s.end;
            for (int index = begin; index < end; ++index) {
                const Passage p = pass_at(in, s, index);
                const int64_t row = s.steep ? index : p.at, column = s.steep ? p.at : index, at = row * width + column;
                if (!p.inside || row < y0 || row >= y1) continue;
                if (!shows(p, s, depth[at], depth[s.steep ? at + 1 : at + width])) continue;
                uint64_t& best = keys[2 * at + (s.steep ? 0 : 1)];
                const uint64_t key = key_of(p.extent, s.edge);
                if (key > best) best = key;
            }
        }
    }
}

// Calls body(exchange, partner, whether this pixel is the first of the pair) for the up to four pairs of a pixel.
template <class F>
AV_INLINE void for_each_pair(const AvAntialias& in, int64_t c, int64_t y, int64_t x, F&& body) {
    const int64_t width = in.width, at = (c * in.height + y) * width + x;
    const uint64_t* keys = in.keys;
    const float* depth = in.depth;
    if (keys[2 * at]) body(exchange_of(keys[2 * at], depth[at], depth[at + 1]), at + 1, true);
    if (keys[2 * at + 1]) body(exchange_of(keys[2 * at + 1], depth[at], depth[at + width]), at + width, true);
    if (x > 0 && keys[2 * at - 2]) body(exchange_of(keys[2 * at - 2], depth[at - 1], depth[at]), at - 1, false);
    if (y > 0 && keys[2 * (at - width) + 1])
        body(exchange_of(keys[2 * (at - width) + 1], depth[at - width], depth[at]), at - width, false);
}

template <class F>
static void for_each_band(const AvAntialias& in, F&& body) {
    const int64_t bands = (in.height + IMAGE_BAND - 1) / IMAGE_BAND;
    parallel_for(in.launch.threads, in.C * bands, [&](int64_t task, int) {
        const int y0 = (int)(task % bands) * IMAGE_BAND;
        body(task / bands, y0, y0 + IMAGE_BAND < in.height ? y0 + IMAGE_BAND : in.height);
    });
}

static int32_t antialias_forward(const AvAntialias* args) {
    const AvAntialias& in = *args;
    const int64_t blocks = (in.E + EDGE_BLOCK - 1) / EDGE_BLOCK, D = in.channels;
    Silhouette* found = (Silhouette*)(((uintptr_t)in.scratch + 63) / 64 * 64);  // [C, E], each block packed
    int64_t* counts = (int64_t*)(found + in.C * in.E);                          // [C, blocks]
    parallel_for(in.launch.threads, in.C * blocks, [&](int64_t task, int) {
        const int64_t c = task / blocks, begin = task % blocks * EDGE_BLOCK, end = begin + EDGE_BLOCK < in.E ? begin + EDGE_BLOCK : in.E;
        int64_t count = 0;
        for (int64_t e = begin; e < end; ++e) {
            const Silhouette s = find_silhouette(in, c, e);
            if (s.valid) found[c * in.E + begin + count++] = s;
        }
        counts[task] = count;
    });
    for_each_band(in, [&](int64_t c, int y0, int y1) { keys_of_band(in, c, y0, y1, found + c * in.E, counts + c * blocks); });
    for_each_band(in, [&](int64_t c, int y0, int y1) {
        const int64_t begin = (c * in.height + y0) * in.width, end = (c * in.height + y1) * in.width;
        memcpy(in.out + begin * D, in.image + begin * D, (size_t)((end - begin) * D) * sizeof(float));
        for (int64_t y = y0; y < y1; ++y) {
            for (int64_t x = 0; x < in.width; ++x) {
                const int64_t at = (c * in.height + y) * in.width + x;
                for_each_pair(in, c, y, x, [&](const Exchange& e, int64_t partner, bool first) {
                    if (e.first_takes != first) return;
                    for (int64_t d = 0; d < D; ++d) in.out[at * D + d] += e.amount * (in.image[partner * D + d] - in.image[at * D + d]);
                });
            }
        }
    });
    return AV_OK;
}

static int32_t antialias_backward(const AvAntialias* args) {
    const AvAntialias& in = *args;
    const int64_t D = in.channels;
    for_each_band(in, [&](int64_t c, int y0, int y1) {
        const int64_t begin = (c * in.height + y0) * in.width, end = (c * in.height + y1) * in.width;
        memcpy(in.v_image + begin * D, in.v_out + begin * D, (size_t)((end - begin) * D) * sizeof(float));
        for (int64_t y = y0; y < y1; ++y) {
            for (int64_t x = 0; x < in.width; ++x) {
                const int64_t at = (c * in.height + y) * in.width + x;
                for_each_pair(in, c, y, x, [&](const Exchange& e, int64_t partner, bool first) {
                    const bool takes = e.first_takes == first;
                    const float* v = in.v_out + (takes ? at : partner) * D;
                    const float amount = takes ? -e.amount : e.amount;
                    for (int64_t d = 0; d < D; ++d) in.v_image[at * D + d] += amount * v[d];
                });
            }
        }
    });
    parallel_for(in.launch.threads, in.C, [&](int64_t c, int) {
        const int64_t width = in.width;
        if (in.V > 0) memset(in.v_points + 3 * c * in.V, 0, (size_t)in.V * 3 * sizeof(float));
        for (int64_t i = 0; i < 2 * in.height * width; ++i) {
            const int64_t slot = 2 * c * in.height * width + i, at = slot / 2, next = slot % 2 ? at + width : at + 1;
            const uint64_t key = in.keys[slot];
            if (!key) continue;
            const Exchange e = exchange_of(key, in.depth[at], in.depth[next]);
            const int64_t taker = e.first_takes ? at : next, giver = e.first_takes ? next : at;
            double v_extent = 0, v[2][3];
            for (int64_t d = 0; d < D; ++d)
                v_extent += (double)(in.image[giver * D + d] - in.image[taker * D + d]) * in.v_out[taker * D + d];
            const Silhouette s = find_silhouette(in, c, e.edge);
            const int64_t pixel = i / 2;
            silhouette_gradient(in, s, (int)(i % 2 ? pixel % width : pixel / width), e.slope * v_extent, v[0], v[1]);
            for (int k = 0; k < 2; ++k)
                for (int j = 0; j < 3; ++j) in.v_points[3 * (c * in.V + in.edges[4 * e.edge + k]) + j] += (float)v[k][j];
        }
    });
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
