// One Gaussian seen by one camera, scalar: projection, its gradient, spherical harmonics, ellipse–rectangle tests.
// Semantics in semantics.h. Written for CUDA threads and plain C++ alike; the CPU library has its own vector code.
//
// Where float32 would not keep an image within 1e-5 of float64: camera-space positions and pixel coordinates are computed in double
// (a pixel coordinate near 800 has only 6e-5 of resolution in float32), and the determinant of the 2D covariance is
// a sum of non-negative terms (Lagrange's identity), since a·c - b² loses everything for a thin diagonal Gaussian.
#pragma once
#include <math.h>

#include "abi.h"
#include "semantics.h"

#if defined(__CUDACC__)
#define AV_HD __host__ __device__ __forceinline__
#else
#define AV_HD inline
#endif

namespace av {

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;
constexpr float LOG2_ALPHA_MIN = -7.994353436858858f;  // log2(AV_ALPHA_MIN)

struct Camera {
    float R[9];       // world → camera
    double Rt[12];    // the same with the translation, row-major 3×4, for positions
    float fx, skew, fy;
    double cx, cy;
    float center[3];  // in the world
};

AV_HD Camera load_camera(const float* viewmat, const float* K) {
    Camera cam;
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) cam.R[3 * i + j] = viewmat[4 * i + j];
        for (int j = 0; j < 4; ++j) cam.Rt[4 * i + j] = viewmat[4 * i + j];
    }
    for (int j = 0; j < 3; ++j) {
        cam.center[j] = (float)-(cam.Rt[j] * cam.Rt[3] + cam.Rt[4 + j] * cam.Rt[7] + cam.Rt[8 + j] * cam.Rt[11]);
    }
    cam.fx = K[0], cam.skew = K[1], cam.cx = K[2], cam.fy = K[4], cam.cy = K[5];
    return cam;
}

// The parameters of one Gaussian after activation.
struct Gaussian {
    float mean[3];
    float quat[4];  // as given
    float scale[3];
    float opacity;
};

AV_HD Gaussian load_gaussian(const AvScene& s, int64_t n) {
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

AV_HD bool finite(float x) { return x - x == 0.0f; }

// Unit quaternion → rotation, rows.
AV_HD void rotation(const float q[4], float R[9]) {
    const float w = q[0], x = q[1], y = q[2], z = q[3];
    R[0] = 1 - 2 * (y * y + z * z), R[1] = 2 * (x * y - w * z), R[2] = 2 * (x * z + w * y);
    R[3] = 2 * (x * y + w * z), R[4] = 1 - 2 * (x * x + z * z), R[5] = 2 * (y * z - w * x);
    R[6] = 2 * (x * z - w * y), R[7] = 2 * (y * z + w * x), R[8] = 1 - 2 * (x * x + y * y);
}

// What the camera sees of one Gaussian, and what the gradient needs again.
struct Projection {
    bool visible;
    float u, v;          // pixels, rounded
    float u_low, v_low;  // what the rounding left
    float z;
    float cov[3];      // with the low-pass filter: xx, xy, yy
    float det0, det;   // without and with it
    float conic[3];
    float opacity;     // compensated
    float extent[2];   // half the box of alpha >= AV_ALPHA_MIN
    // for the gradient
    float x, y;        // camera space
    float tx, ty;      // clamped x/z, y/z
    bool free_x, free_y;
    float quat_scale;  // 1/|quat|
    float A[6];        // cov2d without filter = A Aᵀ
    float Rq[9];
    float JW[6];
};

AV_HD Projection project_gaussian(const Gaussian& g, const Camera& cam, int width, int height, float near_plane,
                                  float eps2d, bool antialiased) {
    Projection p;
    p.visible = false;
    const float norm2 = g.quat[0] * g.quat[0] + g.quat[1] * g.quat[1] + g.quat[2] * g.quat[2] + g.quat[3] * g.quat[3];
    const float sum = g.mean[0] + g.mean[1] + g.mean[2] + norm2 + g.scale[0] + g.scale[1] + g.scale[2] + g.opacity;
    if (!finite(sum) || !(norm2 > 1e-30f)) return p;
    const double mx = g.mean[0], my = g.mean[1], mz = g.mean[2];
    const double x = cam.Rt[0] * mx + cam.Rt[1] * my + cam.Rt[2] * mz + cam.Rt[3];
    const double y = cam.Rt[4] * mx + cam.Rt[5] * my + cam.Rt[6] * mz + cam.Rt[7];
    const double z = cam.Rt[8] * mx + cam.Rt[9] * my + cam.Rt[10] * mz + cam.Rt[11];
    if (!(z >= (double)near_plane)) return p;
    const double inverse_z = 1.0 / z;
    const double xz = x * inverse_z, yz = y * inverse_z;
    const double u = cam.fx * xz + cam.skew * yz + cam.cx, v = cam.fy * yz + cam.cy;
    if (!(fabs(u) < (double)AV_COORD_MAX) || !(fabs(v) < (double)AV_COORD_MAX)) return p;
    p.u = (float)u, p.v = (float)v;
    p.u_low = (float)(u - p.u), p.v_low = (float)(v - p.v);
    p.x = (float)x, p.y = (float)y, p.z = (float)z;

    // Jacobian at the clamped position
    const float margin_x = AV_FRUSTUM_MARGIN * width, margin_y = AV_FRUSTUM_MARGIN * height;
    const float low_x = -((float)cam.cx + margin_x) / cam.fx, high_x = (width - (float)cam.cx + margin_x) / cam.fx;
    const float low_y = -((float)cam.cy + margin_y) / cam.fy, high_y = (height - (float)cam.cy + margin_y) / cam.fy;
    const float fxz = (float)xz, fyz = (float)yz, iz = (float)inverse_z;
    p.tx = fminf(fmaxf(fxz, low_x), high_x), p.ty = fminf(fmaxf(fyz, low_y), high_y);
    p.free_x = fxz > low_x && fxz < high_x, p.free_y = fyz > low_y && fyz < high_y;
    const float J00 = cam.fx * iz, J01 = cam.skew * iz, J02 = -(cam.fx * p.tx + cam.skew * p.ty) * iz;
    const float J11 = cam.fy * iz, J12 = -cam.fy * p.ty * iz;
    for (int k = 0; k < 3; ++k) {
        p.JW[k] = J00 * cam.R[k] + J01 * cam.R[3 + k] + J02 * cam.R[6 + k];
        p.JW[3 + k] = J11 * cam.R[3 + k] + J12 * cam.R[6 + k];
    }
    p.quat_scale = 1.0f / sqrtf(norm2);
    const float q[4] = {g.quat[0] * p.quat_scale, g.quat[1] * p.quat_scale, g.quat[2] * p.quat_scale,
                        g.quat[3] * p.quat_scale};
    rotation(q, p.Rq);
    for (int k = 0; k < 3; ++k) {
        for (int i = 0; i < 2; ++i) {
            p.A[3 * i + k] = (p.JW[3 * i] * p.Rq[k] + p.JW[3 * i + 1] * p.Rq[3 + k] + p.JW[3 * i + 2] * p.Rq[6 + k]) *
                             g.scale[k];
        }
    }
    const float* A0 = p.A;
    const float* A1 = p.A + 3;
    const float a0 = A0[0] * A0[0] + A0[1] * A0[1] + A0[2] * A0[2];
    const float b = A0[0] * A1[0] + A0[1] * A1[1] + A0[2] * A1[2];
    const float c0 = A1[0] * A1[0] + A1[1] * A1[1] + A1[2] * A1[2];
    const float n0 = A0[1] * A1[2] - A0[2] * A1[1], n1 = A0[2] * A1[0] - A0[0] * A1[2], n2 = A0[0] * A1[1] - A0[1] * A1[0];
    p.det0 = n0 * n0 + n1 * n1 + n2 * n2;
    p.det = p.det0 + eps2d * (a0 + c0) + eps2d * eps2d;
    p.cov[0] = a0 + eps2d, p.cov[1] = b, p.cov[2] = c0 + eps2d;
    if (!(p.det > AV_DET_MIN) || !finite(p.det)) return p;
    const float inverse_det = 1.0f / p.det;
    p.conic[0] = p.cov[2] * inverse_det, p.conic[1] = -b * inverse_det, p.conic[2] = p.cov[0] * inverse_det;
    p.opacity = g.opacity;
    if (antialiased) p.opacity *= sqrtf(p.det0 * inverse_det);
    if (!(p.opacity >= AV_ALPHA_MIN)) return p;
    const float q_max = 2.0f * logf(p.opacity * (1.0f / AV_ALPHA_MIN));
    p.extent[0] = sqrtf(q_max * p.cov[0]), p.extent[1] = sqrtf(q_max * p.cov[2]);
    if (!(p.u + p.extent[0] > 0) || !(p.u - p.extent[0] < width)) return p;
    if (!(p.v + p.extent[1] > 0) || !(p.v - p.extent[1] < height)) return p;
    p.visible = true;
    return p;
}

// Gradients that reach one projection, and those that leave it.
struct ProjectionGradient {
    float u, v, z, opacity;
    float cov[3];  // xx, xy (the entry that stands twice in the matrix), yy
};

struct GaussianGradient {
    float mean[3];
    float quat[4];
    float scale[3];
    float opacity;
};

// ∂L/∂(xx, xy, yy of cov2d) from ∂L/∂(xx, xy, yy of its inverse).
AV_HD void conic_to_cov_gradient(const float conic[3], const float v_conic[3], float v_cov[3]) {
    const float a = conic[0], b = conic[1], c = conic[2];
    const float ga = v_conic[0], gb = 0.5f * v_conic[1], gc = v_conic[2];
    const float p00 = a * ga + b * gb, p01 = a * gb + b * gc, p10 = b * ga + c * gb, p11 = b * gb + c * gc;
    v_cov[0] = -(p00 * a + p01 * b);
    v_cov[1] = -(p00 * b + p01 * c) - (p10 * a + p11 * b);
    v_cov[2] = -(p10 * b + p11 * c);
}

// Adds to `out`, whose scale and opacity gradients are to the raw parameters when flags say that these are raw.
AV_HD void project_gradient(const Gaussian& g, const Camera& cam, const Projection& p, const ProjectionGradient& in,
                            float eps2d, int flags, GaussianGradient& out) {
    float v_cov[3] = {in.cov[0], in.cov[1], in.cov[2]};
    float v_opacity = in.opacity;
    if (flags & AV_ANTIALIASED) {
        const float ratio = p.det0 / p.det;
        const float root = sqrtf(ratio);
        if (root > 0) {
            const float v_ratio = 0.5f * in.opacity * g.opacity / root;
            const float k = v_ratio / p.det;
            // det - det0 = eps·(trace of the filtered covariance) - eps²: no cancellation this way round
            const float gap = (eps2d * (p.cov[0] + p.cov[2]) - eps2d * eps2d) / p.det;
            v_cov[0] += k * ((p.cov[2] - eps2d) - ratio * p.cov[2]);
            v_cov[1] += k * (-2.0f * p.cov[1]) * gap;
            v_cov[2] += k * ((p.cov[0] - eps2d) - ratio * p.cov[0]);
        }
        v_opacity *= root;
    }
    out.opacity += (flags & AV_LOGIT_OPACITIES) ? v_opacity * g.opacity * (1.0f - g.opacity) : v_opacity;

    float v_A[6];
    for (int k = 0; k < 3; ++k) {
        v_A[k] = 2 * v_cov[0] * p.A[k] + v_cov[1] * p.A[3 + k];
        v_A[3 + k] = v_cov[1] * p.A[k] + 2 * v_cov[2] * p.A[3 + k];
    }
    // A = JW · (Rq · diag(scale))
    float v_JW[6] = {0, 0, 0, 0, 0, 0};
    float v_R[9];
    for (int k = 0; k < 3; ++k) {
        float v_scale = 0;
        for (int j = 0; j < 3; ++j) {
            const float v_M = p.JW[j] * v_A[k] + p.JW[3 + j] * v_A[3 + k];
            v_scale += v_M * p.Rq[3 * j + k];
            v_R[3 * j + k] = v_M * g.scale[k];
            v_JW[j] += v_A[k] * p.Rq[3 * j + k] * g.scale[k];
            v_JW[3 + j] += v_A[3 + k] * p.Rq[3 * j + k] * g.scale[k];
        }
        out.scale[k] += (flags & AV_LOG_SCALES) ? v_scale * g.scale[k] : v_scale;
    }
    const float w = g.quat[0] * p.quat_scale, x = g.quat[1] * p.quat_scale, y = g.quat[2] * p.quat_scale,
                z = g.quat[3] * p.quat_scale;
    const float v_q[4] = {
        2 * (x * (v_R[7] - v_R[5]) + y * (v_R[2] - v_R[6]) + z * (v_R[3] - v_R[1])),
        2 * (-2 * x * (v_R[4] + v_R[8]) + y * (v_R[1] + v_R[3]) + z * (v_R[2] + v_R[6]) + w * (v_R[7] - v_R[5])),
        2 * (x * (v_R[1] + v_R[3]) - 2 * y * (v_R[0] + v_R[8]) + z * (v_R[5] + v_R[7]) + w * (v_R[2] - v_R[6])),
        2 * (x * (v_R[2] + v_R[6]) + y * (v_R[5] + v_R[7]) - 2 * z * (v_R[0] + v_R[4]) + w * (v_R[3] - v_R[1]))};
    const float along = v_q[0] * w + v_q[1] * x + v_q[2] * y + v_q[3] * z;
    const float unit[4] = {w, x, y, z};
    for (int i = 0; i < 4; ++i) out.quat[i] += (v_q[i] - along * unit[i]) * p.quat_scale;

    // JW = J · R;  J = [fx/z skew/z J02; 0 fy/z J12]
    float v_J[6];
    for (int i = 0; i < 2; ++i) {
        for (int k = 0; k < 3; ++k) {
            v_J[3 * i + k] = v_JW[3 * i] * cam.R[3 * k] + v_JW[3 * i + 1] * cam.R[3 * k + 1] + v_JW[3 * i + 2] * cam.R[3 * k + 2];
        }
    }
    const float iz = 1.0f / p.z;
    const float J02 = -(cam.fx * p.tx + cam.skew * p.ty) * iz, J12 = -cam.fy * p.ty * iz;
    const float v_tx = p.free_x ? -v_J[2] * cam.fx * iz : 0.0f;
    const float v_ty = p.free_y ? -(v_J[2] * cam.skew + v_J[5] * cam.fy) * iz : 0.0f;
    const float v_xz = in.u * cam.fx + v_tx, v_yz = in.u * cam.skew + in.v * cam.fy + v_ty;
    const float v_x = v_xz * iz, v_y = v_yz * iz;
    const float v_z = in.z - iz * (v_J[0] * cam.fx * iz + v_J[1] * cam.skew * iz + v_J[4] * cam.fy * iz + v_J[2] * J02 +
                                   v_J[5] * J12 + v_x * p.x + v_y * p.y);
    for (int k = 0; k < 3; ++k) out.mean[k] += cam.R[k] * v_x + cam.R[3 + k] * v_y + cam.R[6 + k] * v_z;
}

// Real spherical harmonics in the order and signs of 3DGS.
AV_HD void sh_basis(int degree, float x, float y, float z, float Y[16]) {
    Y[0] = 0.28209479177387814f;
    if (degree < 1) return;
    Y[1] = -0.4886025119029199f * y, Y[2] = 0.4886025119029199f * z, Y[3] = -0.4886025119029199f * x;
    if (degree < 2) return;
    Y[4] = 1.0925484305920792f * x * y, Y[5] = -1.0925484305920792f * y * z;
    Y[6] = 0.31539156525252005f * (2 * z * z - x * x - y * y);
    Y[7] = -1.0925484305920792f * x * z, Y[8] = 0.5462742152960396f * (x * x - y * y);
    if (degree < 3) return;
    const float xx = x * x, yy = y * y, zz = z * z;
    Y[9] = -0.5900435899266435f * y * (3 * xx - yy), Y[10] = 2.890611442640554f * x * y * z;
    Y[11] = -0.4570457994644658f * y * (4 * zz - xx - yy);
    Y[12] = 0.3731763325901154f * z * (2 * zz - 3 * xx - 3 * yy);
    Y[13] = -0.4570457994644658f * x * (4 * zz - xx - yy);
    Y[14] = 1.445305721320277f * z * (xx - yy), Y[15] = -0.5900435899266435f * x * (xx - 3 * yy);
}

// Gradient of Σ_k w_k Y_k to the direction, before normalisation of the direction is accounted for.
AV_HD void sh_direction_gradient(int degree, float x, float y, float z, const float w[16], float d[3]) {
    d[0] = d[1] = d[2] = 0;
    if (degree < 1) return;
    d[0] -= 0.4886025119029199f * w[3], d[1] -= 0.4886025119029199f * w[1], d[2] += 0.4886025119029199f * w[2];
    if (degree < 2) return;
    const float c4 = 1.0925484305920792f * w[4], c5 = -1.0925484305920792f * w[5], c6 = 0.31539156525252005f * w[6];
    const float c7 = -1.0925484305920792f * w[7], c8 = 0.5462742152960396f * w[8];
    d[0] += c4 * y - 2 * c6 * x + c7 * z + 2 * c8 * x;
    d[1] += c4 * x + c5 * z - 2 * c6 * y - 2 * c8 * y;
    d[2] += c5 * y + 4 * c6 * z + c7 * x;
    if (degree < 3) return;
    const float xx = x * x, yy = y * y, zz = z * z, xy = x * y, xz = x * z, yz = y * z;
    const float c9 = -0.5900435899266435f * w[9], c10 = 2.890611442640554f * w[10], c11 = -0.4570457994644658f * w[11];
    const float c12 = 0.3731763325901154f * w[12], c13 = -0.4570457994644658f * w[13], c14 = 1.445305721320277f * w[14];
    const float c15 = -0.5900435899266435f * w[15];
    d[0] += c9 * 6 * xy + c10 * yz - c11 * 2 * xy - c12 * 6 * xz + c13 * (4 * zz - 3 * xx - yy) + c14 * 2 * xz +
            c15 * (3 * xx - 3 * yy);
    d[1] += c9 * (3 * xx - 3 * yy) + c10 * xz + c11 * (4 * zz - xx - 3 * yy) - c12 * 6 * yz - c13 * 2 * xy - c14 * 2 * yz -
            c15 * 6 * xy;
    d[2] += c10 * xy + c11 * 8 * yz + c12 * (6 * zz - 3 * xx - 3 * yy) + c13 * 8 * xz + c14 * (xx - yy);
}

// The ellipse as the rasteriser evaluates it: alpha = 2^(log2 opacity - |W d|²), W = [s r; 0 e], d = pixel - mean.
// Unlike a·dx² + 2b·dx·dy + c·dy² this does not cancel for long thin Gaussians (error linear, not quadratic, in d).
struct Ellipse {
    float s, r, e;
};

AV_HD Ellipse ellipse_of_cov(const float cov[3], float det) {  // W from the covariance: (cyy/det)(dx - cxy/cyy·dy)² + dy²/cyy
    Ellipse w;
    w.s = sqrtf(0.5f * LOG2E * cov[2] / det);
    w.r = -cov[1] / cov[2] * w.s;
    w.e = sqrtf(0.5f * LOG2E / cov[2]);
    return w;
}

AV_HD Ellipse ellipse_of_conic(const float conic[3]) {
    const double a = conic[0], b = conic[1], c = conic[2], h = 0.5 * 1.4426950408889634;
    Ellipse w;
    w.s = (float)sqrt(h * a);
    w.r = (float)(b / a * sqrt(h * a));
    w.e = (float)sqrt(h * fmax(c - b * b / a, 0.0));
    return w;
}

// Tests rectangles of pixel centres against {|W d|² <= limit}.
struct EllipseTest {
    float s, r, e, limit, to_x, to_y;

    AV_HD EllipseTest(const Ellipse& w, float log2_opacity) : s(w.s), r(w.r), e(w.e) {
        // Slack for the rounding of the test: a rectangle is never lost, a few too many are kept.
        limit = (log2_opacity - LOG2_ALPHA_MIN) * 1.0001f + 2e-3f;
        to_x = -r / s;
        to_y = -r * s / (r * r + e * e);
    }

    // Does the ellipse about (mx, my) touch [x0, x1] × [y0, y1]? Exact: the form is convex, so its least value
    // over the rectangle lies at the centre or on an edge that faces it.
    AV_HD bool touches(float mx, float my, float x0, float x1, float y0, float y1) const {
        const float left = x0 - mx, right = x1 - mx, top = y0 - my, bottom = y1 - my;
        const float dx = fminf(fmaxf(0.0f, left), right), dy = fminf(fmaxf(0.0f, top), bottom);
        if (dx == 0.0f && dy == 0.0f) return true;
        // on the vertical edge, then on the horizontal one; an edge that does not face the centre is no better
        const float ty = fminf(fmaxf(to_y * dx, top), bottom), tx = fminf(fmaxf(to_x * dy, left), right);
        const float p = s * dx + r * ty, q = e * ty, u = s * tx + r * dy, v = e * dy;
        return fminf(p * p + q * q, u * u + v * v) <= limit;
    }
};

}  // namespace av
