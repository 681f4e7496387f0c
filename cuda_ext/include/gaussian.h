// One Gaussian in one camera: EWA projection, colour, extent; and the gradients of all that. semantics.h says what and why.
#pragma once
#include "camera.h"
#include "sh.h"

namespace av {
inline namespace AV_NS {

// Rotation of the quaternion (w, x, y, z) / its length; `inv` is 1 / length.
template <class T>
AV_HD void quat_to_matrix(const T* q, T* R, T& inv) {
    inv = T(1.0f) / sqrt_(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    const T w = q[0] * inv, x = q[1] * inv, y = q[2] * inv, z = q[3] * inv, one = T(1.0f), two = T(2.0f);
    R[0] = one - two * (y * y + z * z), R[1] = two * (x * y - w * z), R[2] = two * (x * z + w * y);
    R[3] = two * (x * y + w * z), R[4] = one - two * (x * x + z * z), R[5] = two * (y * z - w * x);
    R[6] = two * (x * z - w * y), R[7] = two * (y * z + w * x), R[8] = one - two * (x * x + y * y);
}

// What the forward pass finds, and the backward pass finds again.
template <class T>
struct Shape {
    typedef typename MaskOf<T>::type M;
    T x, y, z, inv_z;    // in the camera
    T u, v;              // pixels
    T Rq[9], inv_q;      // rotation of the Gaussian
    T V[9];              // camera rotation · Gaussian rotation: its axes as the camera sees them
    T A[6];              // J · V
    T tx, ty;            // where J is evaluated
    T a, b, c, det;      // cov2d with the low-pass filter
    T compensation;      // 1 unless antialiased
    M x_free, y_free;    // tx, ty not clamped
    M visible;           // finite, in front of the near plane, not degenerate
};

template <class T>
AV_HD void project_shape(const Camera& cam, const T* mean, const T* quat, const T* scale, bool antialiased, Shape<T>& s) {
    const float* R = cam.R;
    s.x = T(R[0]) * mean[0] + T(R[1]) * mean[1] + T(R[2]) * mean[2] + T(cam.t[0]);
    s.y = T(R[3]) * mean[0] + T(R[4]) * mean[1] + T(R[5]) * mean[2] + T(cam.t[1]);
    s.z = T(R[6]) * mean[0] + T(R[7]) * mean[1] + T(R[8]) * mean[2] + T(cam.t[2]);
    s.visible = (s.z >= T(cam.near_plane)) & finite_(s.x) & finite_(s.y) & finite_(s.z);
    s.inv_z = T(1.0f) / s.z;
    const T xz = s.x * s.inv_z, yz = s.y * s.inv_z;
    s.u = T(cam.fx) * xz + T(cam.skew) * yz + T(cam.cx);
    s.v = T(cam.fy) * yz + T(cam.cy);
    s.x_free = (xz >= T(cam.x_min)) & (xz <= T(cam.x_max));
    s.y_free = (yz >= T(cam.y_min)) & (yz <= T(cam.y_max));
    s.tx = min_(max_(xz, T(cam.x_min)), T(cam.x_max));
    s.ty = min_(max_(yz, T(cam.y_min)), T(cam.y_max));
    quat_to_matrix(quat, s.Rq, s.inv_q);
    s.visible = s.visible & finite_(s.inv_q);
    const T fx_z = T(cam.fx) * s.inv_z, sk_z = T(cam.skew) * s.inv_z, fy_z = T(cam.fy) * s.inv_z;
    T B[6];  // A · scales
    for (int j = 0; j < 3; ++j) {
        for (int i = 0; i < 3; ++i) s.V[3 * i + j] = T(R[3 * i]) * s.Rq[j] + T(R[3 * i + 1]) * s.Rq[3 + j] + T(R[3 * i + 2]) * s.Rq[6 + j];
        s.A[j] = fx_z * s.V[j] + sk_z * s.V[3 + j] - (fx_z * s.tx + sk_z * s.ty) * s.V[6 + j];
        s.A[3 + j] = fy_z * (s.V[3 + j] - s.ty * s.V[6 + j]);
        B[j] = s.A[j] * scale[j], B[3 + j] = s.A[3 + j] * scale[j];
    }
    const T a0 = B[0] * B[0] + B[1] * B[1] + B[2] * B[2];
    const T c0 = B[3] * B[3] + B[4] * B[4] + B[5] * B[5];
    s.b = B[0] * B[3] + B[1] * B[4] + B[2] * B[5];
    s.a = a0 + T(cam.eps2d), s.c = c0 + T(cam.eps2d);
    // |B0 × B1|² = a0·c0 - b² without the cancellation that ruins thin Gaussians in single precision (Lagrange's identity).
    const T n0 = B[1] * B[5] - B[2] * B[4], n1 = B[2] * B[3] - B[0] * B[5], n2 = B[0] * B[4] - B[1] * B[3];
    const T det0 = n0 * n0 + n1 * n1 + n2 * n2;
    s.det = det0 + T(cam.eps2d) * (a0 + c0 + T(cam.eps2d));
    s.visible = s.visible & (s.det > T(AV_DET_MIN)) & finite_(s.det);
    s.visible = s.visible & (abs_(s.u) < T(AV_COORD_MAX)) & (abs_(s.v) < T(AV_COORD_MAX));
    s.compensation = antialiased ? sqrt_(det0 / s.det) : T(1.0f);
}

// Gradients to mean, quaternion and scale (added to v_mean, written to the others) from those to what was projected.
// v_a, v_b, v_c: to the conic (b counts both off-diagonal entries); v_comp: to the compensation. v_camera: NULL, or those to the camera
// are added to it, and `mean` is read.
template <class T>
AV_HD void project_shape_backward(const Camera& cam, const T* mean, const T* quat, const T* scale, bool antialiased, const Shape<T>& s,
                                  T v_u, T v_v, T v_z, T v_a, T v_b, T v_c, T v_comp, T* v_mean, T* v_quat, T* v_scale,
                                  T* v_camera = nullptr) {
    const float* R = cam.R;
    const T half = T(0.5f), two = T(2.0f), inv_det = T(1.0f) / s.det;
    // conic = cov⁻¹, so v_cov = -conic · v_conic · conic
    const T p = s.c * inv_det, q = -(s.b * inv_det), r = s.a * inv_det, hb = half * v_b;
    const T k00 = v_a * p + hb * q, k01 = v_a * q + hb * r, k10 = hb * p + v_c * q, k11 = hb * q + v_c * r;
    T g00 = -(p * k00 + q * k10), g01 = -(p * k01 + q * k11), g11 = -(q * k01 + r * k11);
    if (antialiased) {
        const T a0 = s.a - T(cam.eps2d), c0 = s.c - T(cam.eps2d);
        const T det0 = s.compensation * s.compensation * s.det;
        const T inv0 = select(det0 > T(AV_DET_MIN), T(1.0f) / det0, T(0.0f));
        const T k = half * s.compensation * v_comp;
        const T on = select(det0 > T(AV_DET_MIN), k, T(0.0f));
        g00 = g00 + on * (c0 * inv0 - s.c * inv_det);
        g11 = g11 + on * (a0 * inv0 - s.a * inv_det);
        g01 = g01 - on * s.b * (inv0 - inv_det);
    }
    T h[6];  // gradient to cov2d · A
    for (int j = 0; j < 3; ++j) {
        h[j] = g00 * s.A[j] + g01 * s.A[3 + j];
        h[3 + j] = g01 * s.A[j] + g11 * s.A[3 + j];
        v_scale[j] = two * scale[j] * (s.A[j] * h[j] + s.A[3 + j] * h[3 + j]);
    }
    // Turning the Gaussian about its own axis k mixes the other two, the less the more their scales are alike: differences of squares that
    // are taken here, not of gradients whose large parts cancel. To the quaternion: 2·q ⊗ (0, turn), tangential by itself.
    T turn[3];
    for (int k = 0; k < 3; ++k) {
        const int i = (k + 1) % 3, j = (k + 2) % 3;
        turn[k] = two * (s.A[i] * h[j] + s.A[3 + i] * h[3 + j]) * ((scale[i] - scale[j]) * (scale[i] + scale[j]));
    }
    const T q_scale = two * s.inv_q * s.inv_q, qw = quat[0] * q_scale, qx = quat[1] * q_scale, qy = quat[2] * q_scale, qz = quat[3] * q_scale;
    v_quat[0] = -(qx * turn[0]) - qy * turn[1] - qz * turn[2];
    v_quat[1] = qw * turn[0] + qy * turn[2] - qz * turn[1];
    v_quat[2] = qw * turn[1] + qz * turn[0] - qx * turn[2];
    v_quat[3] = qw * turn[2] + qx * turn[1] - qy * turn[0];
    const T fx_z = T(cam.fx) * s.inv_z, sk_z = T(cam.skew) * s.inv_z, fy_z = T(cam.fy) * s.inv_z;
    const T j02 = -(fx_z * s.tx + sk_z * s.ty), j12 = -(fy_z * s.ty);
    T v_j00 = T(0.0f), v_j01 = T(0.0f), v_j02 = T(0.0f), v_j11 = T(0.0f), v_j12 = T(0.0f);
    for (int j = 0; j < 3; ++j) {
        const T square = two * scale[j] * scale[j], e0 = square * h[j], e1 = square * h[3 + j];
        v_j00 = v_j00 + e0 * s.V[j];
        v_j01 = v_j01 + e0 * s.V[3 + j];
        v_j02 = v_j02 + e0 * s.V[6 + j];
        v_j11 = v_j11 + e1 * s.V[3 + j];
        v_j12 = v_j12 + e1 * s.V[6 + j];
        if (v_camera) {
            const T w0 = fx_z * e0, w1 = sk_z * e0 + fy_z * e1, w2 = j02 * e0 + j12 * e1;
            for (int i = 0; i < 3; ++i) {
                const T m = s.Rq[3 * i + j];
                v_camera[i] = v_camera[i] + w0 * m, v_camera[3 + i] = v_camera[3 + i] + w1 * m, v_camera[6 + i] = v_camera[6 + i] + w2 * m;
            }
        }
    }
    const T xz = s.x * s.inv_z, yz = s.y * s.inv_z;
    const T all_tx = -(fx_z * v_j02), all_ty = -(sk_z * v_j02) - fy_z * v_j12;
    const T v_tx = select(s.x_free, all_tx, T(0.0f)), v_ty = select(s.y_free, all_ty, T(0.0f));
    const T vx = fx_z * v_u + v_tx * s.inv_z;
    const T vy = sk_z * v_u + fy_z * v_v + v_ty * s.inv_z;
    T vz = v_z - (fx_z * xz + sk_z * yz) * v_u - fy_z * yz * v_v - (v_tx * xz + v_ty * yz) * s.inv_z;
    vz = vz - s.inv_z * (fx_z * v_j00 + sk_z * v_j01 + fy_z * v_j11 + j02 * v_j02 + j12 * v_j12);
    for (int i = 0; i < 3; ++i) v_mean[i] = v_mean[i] + T(R[i]) * vx + T(R[3 + i]) * vy + T(R[6 + i]) * vz;
    if (!v_camera) return;
    const T v_point[3] = {vx, vy, vz};
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) v_camera[3 * i + j] = v_camera[3 * i + j] + v_point[i] * mean[j];
        v_camera[CAMERA_T + i] = v_camera[CAMERA_T + i] + v_point[i];
    }
    // Where tx is held at a border (∓cx ∓ margin)/fx, that border moves with K; so for ty.
    const T held_x = (all_tx - v_tx) * T(1.0f / cam.fx), held_y = (all_ty - v_ty) * T(1.0f / cam.fy);
    v_camera[CAMERA_FX] = v_camera[CAMERA_FX] + v_u * xz + s.inv_z * (v_j00 - s.tx * v_j02) - held_x * s.tx;
    v_camera[CAMERA_SKEW] = v_camera[CAMERA_SKEW] + v_u * yz + s.inv_z * (v_j01 - s.ty * v_j02);
    v_camera[CAMERA_CX] = v_camera[CAMERA_CX] + v_u - held_x;
    v_camera[CAMERA_FY] = v_camera[CAMERA_FY] + v_v * yz + s.inv_z * (v_j11 - s.ty * v_j12) - held_y * s.ty;
    v_camera[CAMERA_CY] = v_camera[CAMERA_CY] + v_v - held_y;
}

// Adds to v_camera what v_mean, the gradient to the mean through the direction it is seen from, is to the camera: its centre moves the
// other way, and lies at -Rᵀt.
template <class T>
AV_HD void view_point_backward(const Camera& cam, const T* v_mean, T* v_camera) {
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) {
            v_camera[3 * i + j] = v_camera[3 * i + j] + T(cam.t[i]) * v_mean[j];
            v_camera[CAMERA_T + i] = v_camera[CAMERA_T + i] + T(cam.R[3 * i + j]) * v_mean[j];
        }
}

// Unit vector from the camera to the Gaussian, and 1 / distance (0 where they coincide).
template <class T>
AV_HD T view_direction(const Camera& cam, const T* mean, T* d) {
    for (int i = 0; i < 3; ++i) d[i] = mean[i] - T(cam.center[i]);
    const T squared = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
    const T inv = select(squared > T(1e-30f), T(1.0f) / sqrt_(squared), T(0.0f));
    for (int i = 0; i < 3; ++i) d[i] = d[i] * inv;
    return inv;
}

// Adds to v_mean the gradient through the unit direction.
template <class T>
AV_HD void view_direction_backward(const T* d, T inv, const T* v_d, T* v_mean) {
    const T along = d[0] * v_d[0] + d[1] * v_d[1] + d[2] * v_d[2];
    for (int i = 0; i < 3; ++i) v_mean[i] = v_mean[i] + inv * (v_d[i] - along * d[i]);
}

// Half-size of the box outside of which alpha < AV_ALPHA_MIN, from ln2 · 2 · log2(opacity / AV_ALPHA_MIN) widened by
// a hair, so that rounding never drops a contribution that the pixel test would keep.
template <class T>
AV_HD T extent_squared(T log2_opacity) {
    const T q = T(1.3862943611f) * (log2_opacity + T(7.99435344f));
    return max_(q, T(0.0f)) * T(1.0001f) + T(1e-4f);
}

}  // namespace AV_NS
}  // namespace av
