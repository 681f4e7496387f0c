// Nearest triangle per pixel: homogeneous edge functions (Olano & Greer 1997), so that nothing needs clipping.
//
// For corners P (rows (u z, v z, z)) a pixel (x, y) sees barycentrics b with b·P ∝ (x, y, 1): b/z = (x, y, 1)·P⁻¹, three linear
// functions of the pixel, whose sum is 1/z.
#pragma once
#include "../include/abi.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

struct Triangle {
    int32_t x0, y0, x1, y1;            // pixels [x0, x1) × [y0, y1); empty when dropped
    float at[3], dx[3], dy[3];         // b/z at the centre of pixel (x0, y0) and its steps
    float scale;                       // largest |b/z| in the box: what rounding is measured against
    float reserved[2];
};
static_assert(sizeof(Triangle) == 64, "a cache line");

enum { MESH_BAND = 16 };

static int64_t mesh_scratch(int64_t C, int64_t, int64_t F, int32_t, int32_t) { return 64 + C * F * (int64_t)sizeof(Triangle); }

static void set_up_triangle(const AvMesh& in, const float* vertices, const float* K, const int64_t* face, Triangle& t) {
    double P[3][3];
    t.x0 = t.y0 = t.x1 = t.y1 = 0;
    double least_z = 1e300, most_z = -1e300;
    for (int corner = 0; corner < 3; ++corner) {
        const float* v = vertices + 3 * face[corner];
        for (int i = 0; i < 3; ++i) P[corner][i] = (double)K[3 * i] * v[0] + (double)K[3 * i + 1] * v[1] + (double)K[3 * i + 2] * v[2];
        least_z = P[corner][2] < least_z ? P[corner][2] : least_z;
        most_z = P[corner][2] > most_z ? P[corner][2] : most_z;
    }
    double adjugate[3][3];  // columns of the inverse, times the determinant
    for (int i = 0; i < 3; ++i) {
        const double *p = P[(i + 1) % 3], *q = P[(i + 2) % 3];
        adjugate[i][0] = p[1] * q[2] - p[2] * q[1];
        adjugate[i][1] = p[2] * q[0] - p[0] * q[2];
        adjugate[i][2] = p[0] * q[1] - p[1] * q[0];
    }
    const double det = P[0][0] * adjugate[0][0] + P[0][1] * adjugate[0][1] + P[0][2] * adjugate[0][2];
    if (!(fabs(det) > 1e-300) || !finite_(det) || !(most_z >= in.near_plane) || (in.cull_back && det > 0)) return;
    double x_low = 0, y_low = 0, x_high = in.width, y_high = in.height;
    if (least_z >= in.near_plane) {
        x_low = y_low = 1e300, x_high = y_high = -1e300;
        for (int corner = 0; corner < 3; ++corner) {
            const double u = P[corner][0] / P[corner][2], v = P[corner][1] / P[corner][2];
            x_low = u < x_low ? u : x_low, x_high = u > x_high ? u : x_high;
            y_low = v < y_low ? v : y_low, y_high = v > y_high ? v : y_high;
        }
    }
    const double margin = 1e-3;  // the pixel test decides; the box must only not lose what rounding lets in
    const double fx0 = ceil(max_(x_low - 0.5 - margin, 0.0)), fy0 = ceil(max_(y_low - 0.5 - margin, 0.0));
    const double fx1 = floor(min_(x_high - 0.5 + margin, (double)in.width - 1)) + 1;
    const double fy1 = floor(min_(y_high - 0.5 + margin, (double)in.height - 1)) + 1;
    if (!(fx0 < fx1 && fy0 < fy1)) return;
    t.x0 = (int32_t)fx0, t.y0 = (int32_t)fy0, t.x1 = (int32_t)fx1, t.y1 = (int32_t)fy1;
    double scale = 0;
    for (int i = 0; i < 3; ++i) {
        const double a = adjugate[i][0] / det, b = adjugate[i][1] / det, c = adjugate[i][2] / det;
        const double at = a * (fx0 + 0.5) + b * (fy0 + 0.5) + c;
        t.dx[i] = (float)a, t.dy[i] = (float)b, t.at[i] = (float)at;
        const double reach = fabs(at) + fabs(a) * (fx1 - fx0) + fabs(b) * (fy1 - fy0);
        scale = reach > scale ? reach : scale;
    }
    t.scale = (float)scale;
}

// Rows [y0, y1) of one camera. `nearest` holds 1/z, zero where nothing is.
static void mesh_band(const AvMesh& in, int64_t c, int y0, int y1, const Triangle* triangles, float* nearest) {
    const int64_t width = in.width, at = c * in.height * width;
    for (int64_t i = at + y0 * width; i < at + y1 * width; ++i) in.face_ids[i] = -1;
    memset(nearest, 0, (size_t)((y1 - y0) * width) * sizeof(float));
    alignas(64) float lane_index[16];
    for (int l = 0; l < 16; ++l) lane_index[l] = (float)l;
    const F16 lanes = load(lane_index), zero = F16(0.0f), furthest = F16(1.0f / in.near_plane);
    for (int64_t f = 0; f < in.F; ++f) {
        const Triangle& t = triangles[f];
        const int top = t.y0 > y0 ? t.y0 : y0, bottom = t.y1 < y1 ? t.y1 : y1;
        for (int y = top; y < bottom; ++y) {
            const float down = (float)(y - t.y0);
            for (int x = t.x0; x < t.x1; x += 16) {
                const int n = t.x1 - x < 16 ? t.x1 - x : 16;
                const F16 right = lanes + F16((float)(x - t.x0));
                F16 e[3];
                for (int i = 0; i < 3; ++i) e[i] = fma_(F16(t.dx[i]), right, F16(t.at[i] + t.dy[i] * down));
                const F16 inverse = e[0] + e[1] + e[2], slack = F16(-1e-6f * t.scale);
                float* best = nearest + (y - y0) * width + x;
                const M16 hit = (e[0] >= slack) & (e[1] >= slack) & (e[2] >= slack) & (inverse > zero) & (inverse <= furthest) &
                                (inverse > load_part(best, n));
                uint32_t set = bits(hit) & (n == 16 ? 0xffffu : (1u << n) - 1);
                if (!set) continue;
                alignas(64) float values[16];
                store(values, inverse);
                int32_t* ids = in.face_ids + at + y * width + x;
                for (; set; set &= set - 1) {
                    const int l = __builtin_ctz(set);
                    best[l] = values[l];
                    ids[l] = (int32_t)f;
                }
            }
        }
    }
    for (int y = y0; y < y1; ++y) {
        for (int64_t x = 0; x < width; ++x) {
            const int64_t pixel = at + y * width + x;
            float* b = in.barycentrics + 3 * pixel;
            const int32_t f = in.face_ids[pixel];
            if (f < 0) {
                b[0] = b[1] = b[2] = in.depth[pixel] = 0.0f;
                continue;
            }
            const Triangle& t = triangles[f];
            float total = 0.0f, unclamped = 0.0f;
            for (int i = 0; i < 3; ++i) {
                const float e = t.dx[i] * (float)(x - t.x0) + (t.at[i] + t.dy[i] * (float)(y - t.y0));
                unclamped += e;
                b[i] = e > 0.0f ? e : 0.0f;
                total += b[i];
            }
            for (int i = 0; i < 3; ++i) b[i] /= total;
            in.depth[pixel] = 1.0f / unclamped;
        }
    }
}

static int32_t mesh_rasterize(const AvMesh* args) {
    const AvMesh& in = *args;
    Triangle* triangles = (Triangle*)(((uintptr_t)in.scratch + 63) / 64 * 64);
    const int64_t block = 512, blocks = (in.F + block - 1) / block;
    parallel_for(in.launch.threads, in.C * blocks, [&](int64_t task, int) {
        const int64_t c = task / blocks, begin = task % blocks * block, end = begin + block < in.F ? begin + block : in.F;
        for (int64_t f = begin; f < end; ++f)
            set_up_triangle(in, in.vertices + 3 * c * in.V, in.Ks + 9 * c, in.faces + 3 * f, triangles[c * in.F + f]);
    });
    const int64_t bands = (in.height + MESH_BAND - 1) / MESH_BAND;
    parallel_for(in.launch.threads, in.C * bands, [&](int64_t task, int) {
        const int64_t c = task / bands;
        const int y0 = (int)(task % bands) * MESH_BAND, y1 = y0 + MESH_BAND < in.height ? y0 + MESH_BAND : in.height;
        // 1/z of the band lives in the depth image until the band is finished.
        mesh_band(in, c, y0, y1, triangles + c * in.F, in.depth + (c * in.height + y0) * (int64_t)in.width);
    });
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
