// What the kernels of project.cu and camera.cu share: a Gaussian, what a camera sees of it, and what comes back from there.
//
// In float32 a pixel coordinate near 800 has 6e-5 of resolution and loses more on its way from the world, too much for images
// within 1e-5 of float64. Positions are therefore computed in double, and what rounding takes from the pixel coordinate
// is kept beside it.
#pragma once
#include "../include/gaussian.h"
#include "splat.cuh"

namespace av {

constexpr int THREADS = 128;

// Whether every row of K × 3 floats starts at a multiple of 16 bytes.
__device__ inline bool wide_rows(const float* sh, int bases) {
    return (bases & 3) == 0 && (reinterpret_cast<uintptr_t>(sh) & 15) == 0;
}

// The first 3·(DEGREE+1)² coefficients of one Gaussian, as 16-byte loads where rows are aligned to 16 bytes.
template <int DEGREE>
__device__ inline void load_sh(const AvScene& s, int64_t n, float* sh) {
    constexpr int COUNT = 3 * (DEGREE + 1) * (DEGREE + 1);
    const float* row = s.sh + n * 3 * s.sh_bases;
    if (wide_rows(s.sh, s.sh_bases)) {
#pragma unroll
        for (int i = 0; i < COUNT / 4; ++i) {
            const float4 f = reinterpret_cast<const float4*>(row)[i];
            sh[4 * i] = f.x, sh[4 * i + 1] = f.y, sh[4 * i + 2] = f.z, sh[4 * i + 3] = f.w;
        }
#pragma unroll
        for (int i = COUNT / 4 * 4; i < COUNT; ++i) sh[i] = row[i];
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) sh[i] = row[i];
    }
}

// The parameters of one Gaussian after activation.
struct Gaussian {
    float mean[3], quat[4], scale[3], opacity;
};

__device__ inline Gaussian load_gaussian(const AvScene& s, int64_t n) {
    Gaussian g;
    for (int i = 0; i < 3; ++i) g.mean[i] = s.means[3 * n + i];
    for (int i = 0; i < 4; ++i) g.quat[i] = s.quats[4 * n + i];
    for (int i = 0; i < 3; ++i) {
        const float x = s.scales[3 * n + i];
        g.scale[i] = (s.flags & AV_LOG_SCALES) ? expf(x) : x;
    }
    const float o = s.opacities[n];
    g.opacity = (s.flags & AV_LOGIT_OPACITIES) ? 1.0f / (1.0f + expf(-o)) : o;
    return g;
}

__device__ inline Camera load_camera(const AvScene& s, int camera) {
    return make_camera(s.viewmats + 16 * camera, s.Ks + 9 * camera, s.width, s.height, s.near_plane, s.eps2d);
}

// What a camera sees of a Gaussian: the shape, with position and pixel coordinates from double, and the extent.
struct View : Shape<float> {
    float u_low, v_low;  // what is left of u, v after rounding
    float opacity;       // compensated
    float half_x, half_y;
};

__device__ inline View view_of(const AvScene& s, const Gaussian& g, const Camera& cam, int camera) {
    View w;
    project_shape<float>(cam, g.mean, g.quat, g.scale, (s.flags & AV_ANTIALIASED) != 0, w);
    const float* m = s.viewmats + 16 * camera;
    double p[3];
    for (int i = 0; i < 3; ++i) {
        p[i] = (double)m[4 * i] * g.mean[0] + (double)m[4 * i + 1] * g.mean[1] + (double)m[4 * i + 2] * g.mean[2] + m[4 * i + 3];
    }
    const double inverse = 1.0 / p[2], xz = p[0] * inverse, yz = p[1] * inverse;
    const double u = cam.fx * xz + cam.skew * yz + cam.cx, v = cam.fy * yz + cam.cy;
    w.x = (float)p[0], w.y = (float)p[1], w.z = (float)p[2];
    w.u = (float)u, w.v = (float)v;
    w.u_low = (float)(u - w.u), w.v_low = (float)(v - w.v);
    w.opacity = g.opacity * w.compensation;
    const float squared = extent_squared<float>(log2f(w.opacity));
    w.half_x = sqrtf(squared * w.a), w.half_y = sqrtf(squared * w.c);
    const float all = g.scale[0] + g.scale[1] + g.scale[2] + w.opacity;
    w.visible = w.visible && finite_(all) && w.opacity >= AV_ALPHA_MIN && w.u + w.half_x > 0 && w.u - w.half_x < s.width &&
                w.v + w.half_y > 0 && w.v - w.half_y < s.height;
    return w;
}

__device__ inline bool sane_color(float3 c) { return fmaxf(fmaxf(fabsf(c.x), fabsf(c.y)), fabsf(c.z)) < AV_COLOR_MAX && finite_(c.x + c.y + c.z); }

// Colour before the clamp; NaN when a coefficient is not finite.
template <int DEGREE>
__device__ inline float3 color_of(const float* sh, const Camera& cam, const Gaussian& g) {
    constexpr int BASES = (DEGREE + 1) * (DEGREE + 1);
    float d[3], Y[16], rgb[3] = {0.5f, 0.5f, 0.5f}, poison = 0;
    view_direction<float>(cam, g.mean, d);
    sh_basis<float>(DEGREE, d[0], d[1], d[2], Y);
#pragma unroll
    for (int k = 0; k < BASES; ++k) {
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            rgb[i] = fmaf(Y[k], sh[3 * k + i], rgb[i]);
            poison = fmaf(sh[3 * k + i], 0.0f, poison);  // 0, or NaN
        }
    }
    return make_float3(rgb[0] + poison, rgb[1] + poison, rgb[2] + poison);
}

// What reaches a Gaussian from one camera.
struct ViewGradient {
    float u, v, z, opacity, conic[3];
    float color[3];  // before the clamp
};

struct GaussianGradient {
    float mean[3], quat[4], scale[3], opacity;  // to the raw parameters where the flags say that these are raw
};

// From the sums that the rasteriser's gradient leaves behind: with q = dᵀ conic d and alpha = o·exp(-q/2), ∂L/∂q = -g/2.
__device__ inline ViewGradient from_sums(const float4 m[3], float a, float b, float c, float opacity, const float4& color) {
    ViewGradient g;
    g.u = a * m[0].y + b * m[0].z, g.v = b * m[0].y + c * m[0].z;
    g.conic[0] = -0.5f * m[0].w, g.conic[1] = -m[1].x, g.conic[2] = -0.5f * m[1].y;
    g.opacity = m[0].x / opacity;
    g.color[0] = color.x > 0 ? m[1].z : 0.0f;
    g.color[1] = color.y > 0 ? m[1].w : 0.0f;
    g.color[2] = color.z > 0 ? m[2].x : 0.0f;
    g.z = m[2].y;
    return g;
}

// The sums of one Gaussian in one camera; false when no gradient reaches it from there.
template <bool MOMENTS>
__device__ inline bool reached(const Record* records, const float4* moments, const AvProjected& seen, int64_t at, float4 m[3]) {
    if constexpr (MOMENTS) {
        for (int i = 0; i < 3; ++i) m[i] = moments[3 * at + i];
        const bool any = m[0].x != 0 || m[0].y != 0 || m[0].z != 0 || m[0].w != 0 || m[1].x != 0 || m[1].y != 0 || m[1].z != 0 ||
                         m[1].w != 0 || m[2].x != 0 || m[2].y != 0;
        return any && records[at].c.w > 0;
    } else {
        return seen.radii[2 * at] > 0;
    }
}

// MOMENTS: gradients come as sums of the rasteriser and records; otherwise as AvProjected.
template <bool MOMENTS>
__device__ inline ViewGradient view_gradient(const Record* records, const AvProjected& v_out, const AvProjected& seen, int64_t at,
                                             const float4 m[3], const View& w) {
    if constexpr (MOMENTS) {
        const float inverse = 1.0f / w.det;
        return from_sums(m, w.c * inverse, -w.b * inverse, w.a * inverse, w.opacity, records[at].c);
    }
    ViewGradient in;
    in.u = v_out.means2d[2 * at], in.v = v_out.means2d[2 * at + 1];
    in.z = v_out.depths[at], in.opacity = v_out.opacities[at];
    for (int i = 0; i < 3; ++i) {
        in.conic[i] = v_out.conics[3 * at + i];
        in.color[i] = seen.colors[3 * at + i] > 0 ? v_out.colors[3 * at + i] : 0.0f;
    }
    return in;
}

// Adds the gradient through the direction; returns in Y the harmonics, with which v_color goes on to the coefficients.
template <int DEGREE>
__device__ inline void add_color_gradient(const AvScene& s, int64_t n, const Gaussian& g, const Camera& cam,
                                          const float v_color[3], float Y[16], float v_mean[3]) {
    constexpr int BASES = (DEGREE + 1) * (DEGREE + 1);
    float d[3], weight[16], v_d[3] = {0, 0, 0};
    {
        float sh[3 * BASES];
        load_sh<DEGREE>(s, n, sh);
#pragma unroll
        for (int k = 0; k < BASES; ++k) {
            weight[k] = sh[3 * k] * v_color[0] + sh[3 * k + 1] * v_color[1] + sh[3 * k + 2] * v_color[2];
        }
    }
    const float inverse = view_direction<float>(cam, g.mean, d);
    sh_basis<float>(DEGREE, d[0], d[1], d[2], Y);
    sh_basis_backward<float>(DEGREE, d[0], d[1], d[2], weight, v_d[0], v_d[1], v_d[2]);
    view_direction_backward<float>(d, inverse, v_d, v_mean);
}

#define AV_BY_DEGREE(degree, call) \
    switch (degree) {              \
        case 0: call(0); break;    \
        case 1: call(1); break;    \
        case 2: call(2); break;    \
        default: call(3); break;   \
    }

// Where gradients to cameras go: all NULL when nobody asks.
struct CameraGradients {
    float *viewmats, *Ks, *sums;
};

// camera.cu; gradients: sums of the rasteriser with their records, or NULL, then v_out and seen.
void launch_camera_gradients(const AvScene&, const Record* records, const float* gradients, const AvProjected& v_out,
                             const AvProjected& seen, const CameraGradients&, cudaStream_t);

}  // namespace av
