// Nearest triangle per pixel, by the rules of include/coverage.h: in single precision, 16 pixels at a time; where that leaves a doubt
// about an edge or about which of two is nearer, the rules themselves decide.
//
// A pixel (x, y) sees b/z = (x, y, 1)·P⁻¹ for the corners P: three linear functions of the pixel, whose sum is 1/z.
#pragma once
#include "../include/abi.h"
#include "../include/coverage.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

struct Triangle {
    int32_t x0, y0, x1, y1;     // pixels [x0, x1) × [y0, y1); empty when dropped
    float at[3], dx[3], dy[3];  // b/z at the centre of pixel (x0, y0) and its steps
    float slack;                // that b/z may be off by in the box; infinite: they say nothing
    float reserved[2];
};
static_assert(sizeof(Triangle) == 64, "a cache line");

// Relative error up to which 1/z counts as known. It is off by no more than the slack of three b/z and of their sum.
static constexpr float DEPTH_ERROR = 1e-4f, DEPTH_SLACKS = 4.0f;

enum { MESH_BAND = 16 };

static int64_t mesh_scratch(int64_t C, int64_t, int64_t F, int32_t, int32_t) { return 64 + C * F * (int64_t)sizeof(Triangle); }

static void set_up_triangle(const AvMesh& in, int64_t c, int64_t f, Triangle& t) {
    double P[3][3], adjugate[3][3];  // of the latter the columns of the inverse, times the determinant
    t.x0 = t.y0 = t.x1 = t.y1 = 0;
    if (!corners_of(in, c, f, P)) return;
    const PixelBox box = box_of(in, P);
    t.x0 = box.x0, t.y0 = box.y0, t.x1 = box.x1, t.y1 = box.y1;
    if (!(box.x0 < box.x1 && box.y0 < box.y1)) return;
    double size = 0, most_z = 0;
    for (int i = 0; i < 3; ++i) {
        const double *p = P[(i + 1) % 3], *q = P[(i + 2) % 3];
        adjugate[i][0] = p[1] * q[2] - p[2] * q[1];
        adjugate[i][1] = p[2] * q[0] - p[0] * q[2];
        adjugate[i][2] = p[0] * q[1] - p[1] * q[0];
        size = max_(size, fabs(P[i][0]) + fabs(P[i][1]) + (in.width + in.height) * fabs(P[i][2]));
        most_z = max_(most_z, fabs(P[i][2]));
    }
    const double det = P[0][0] * adjugate[0][0] + P[0][1] * adjugate[0][1] + P[0][2] * adjugate[0][2];
    double scale = 0;
    for (int i = 0; i < 3; ++i) {
        const double a = adjugate[i][0] / det, b = adjugate[i][1] / det, c = adjugate[i][2] / det;
        const double at = a * (box.x0 + 0.5) + b * (box.y0 + 0.5) + c;
        t.dx[i] = (float)a, t.dy[i] = (float)b, t.at[i] = (float)at;
        scale = max_(fabs(at) + fabs(a) * (box.x1 - box.x0) + fabs(b) * (box.y1 - box.y0), scale);
    }
    // Rounding of four steps in single precision, and of the corners and the determinant in double.
    const double slack = 3e-7 * scale + 1e-14 * size * size / fabs(det) * (1 + scale * most_z);
    t.slack = (float)slack;
    if (!(slack < 0.05 * scale && scale < 1e30)) {
        t.slack = INFINITY;
        for (int i = 0; i < 3; ++i) t.at[i] = t.dx[i] = t.dy[i] = 0.0f;
    }
}

// By the rules: whether the pixel sees face f in front of the one that it has; then 1/z.
static __attribute__((noinline)) bool sees_in_front(const AvMesh& in, int64_t c, int x, int y, int64_t f, int64_t other, float* inverse) {
    double P[3][3], b[3], z, other_z;
    if (!corners_of(in, c, f, P) || !sees(in, P, x, y, b, &z)) return false;
    *inverse = (float)(1.0 / z);
    return other < 0 || !corners_of(in, c, other, P) || !sees(in, P, x, y, b, &other_z) || (float)z < (float)other_z;
}

// Rows [y0, y1) of one camera. `nearest` holds 1/z, zero where nothing is.
static void mesh_band(const AvMesh& in, int64_t c, int y0, int y1, const Triangle* triangles, float* nearest) {
    const int64_t width = in.width, at = c * in.height * width;
    for (int64_t i = at + y0 * width; i < at + y1 * width; ++i) in.face_ids[i] = -1;
    memset(nearest, 0, (size_t)((y1 - y0) * width) * sizeof(float));
    alignas(64) float lane_index[16];
    for (int l = 0; l < 16; ++l) lane_index[l] = (float)l;
    const float more = 1.0f + 1.2f * DEPTH_ERROR, less = 1.0f - 1.2f * DEPTH_ERROR, nearest_depth = 1.0f / in.near_plane;
    const F16 lanes = load(lane_index), zero = F16(0.0f), most = F16(more), least = F16(less), within = F16(nearest_depth * less);
    for (int64_t f = 0; f < in.F; ++f) {
        const Triangle& t = triangles[f];
        const int top = t.y0 > y0 ? t.y0 : y0, bottom = t.y1 < y1 ? t.y1 : y1;
        if (top >= bottom) continue;
        const float off = DEPTH_SLACKS * t.slack;
        const F16 slack = F16(t.slack), low = F16(-t.slack), doubt = F16(off);
        const F16 known = F16(off / DEPTH_ERROR), reach = F16(nearest_depth * more + off);
        for (int y = top; y < bottom; ++y) {
            const float down = (float)(y - t.y0);
            for (int x = t.x0; x < t.x1; x += 16) {
                const int n = t.x1 - x < 16 ? t.x1 - x : 16;
                const F16 right = lanes + F16((float)(x - t.x0));
                F16 e[3];
                for (int i = 0; i < 3; ++i) e[i] = fma_(F16(t.dx[i]), right, F16(t.at[i] + t.dy[i] * down));
                const F16 inverse = e[0] + e[1] + e[2], high = inverse + doubt;
                float* best = nearest + (y - y0) * width + x;
                const F16 had = load_part(best, n);
                const M16 seen = (e[0] >= low) & (e[1] >= low) & (e[2] >= low) & (high > zero) & (high >= had * least) & (inverse <= reach);
                uint32_t set = bits(seen) & (n == 16 ? 0xffffu : (1u << n) - 1);
                if (!set) continue;
                const M16 sure = (e[0] >= slack) & (e[1] >= slack) & (e[2] >= slack) & (inverse > had * most + doubt) &
                                 (inverse >= known) & (inverse <= within);
                const uint32_t certain = bits(sure);
                alignas(64) float values[16];
                store(values, inverse);
                int32_t* ids = in.face_ids + at + y * width + x;
                for (; set; set &= set - 1) {
                    const int l = __builtin_ctz(set);
                    if (!(certain >> l & 1) && !sees_in_front(in, c, x + l, y, f, ids[l], values + l)) continue;
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
            float e[3], inverse = 0.0f, total = 0.0f;
            for (int i = 0; i < 3; ++i) {
                e[i] = t.dx[i] * (float)(x - t.x0) + (t.at[i] + t.dy[i] * (float)(y - t.y0));
                inverse += e[i];
            }
            if (DEPTH_SLACKS * t.slack <= DEPTH_ERROR * inverse) {
                for (int i = 0; i < 3; ++i) b[i] = max_(e[i], 0.0f), total += b[i];
                for (int i = 0; i < 3; ++i) b[i] /= total;
                in.depth[pixel] = 1.0f / inverse;
            } else {
                double P[3][3], exact[3], z;
                corners_of(in, c, f, P), sees(in, P, (int)x, y, exact, &z);
                for (int i = 0; i < 3; ++i) b[i] = (float)exact[i];
                in.depth[pixel] = (float)z;
            }
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
            set_up_triangle(in, c, f, triangles[c * in.F + f]);
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
