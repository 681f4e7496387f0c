// Triangle frames and what they do to Gaussians (GaussianAvatars, Qian et al. 2024), with gradients to the vertices.
//
// a0 = unit(v1 - v0), a1 = unit(a0 × (v2 - v0)), a2 = -unit(a1 × a0) = a0 × a1, R = [a0 a1 a2], q = quat(R),
// k = (|v1 - v0| + |a2·(v2 - v0)|)/2, centroid c. Because R is a rotation, its derivative is one rotation vector ω per triangle:
// δR = [ω]× R and δq = ½ (0, ω) ⊗ q. The gradient of everything that hangs on R is therefore three numbers, v_ω.
#pragma once
#include "portable.h"

namespace av {
inline namespace AV_NS {

template <class T>
AV_HD void cross(const T* a, const T* b, T* out) {
    out[0] = a[1] * b[2] - a[2] * b[1];
    out[1] = a[2] * b[0] - a[0] * b[2];
    out[2] = a[0] * b[1] - a[1] * b[0];
}

template <class T>
AV_HD T dot(const T* a, const T* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// Scales `a` to unit length, returns 1 / length; both 0 for a zero vector (degenerate triangles collapse, they do not explode).
template <class T>
AV_HD T normalize(T* a) {
    const T squared = dot(a, a);
    const T inv = select(squared > T(1e-36f), T(1.0f) / sqrt_(max_(squared, T(1e-36f))), T(0.0f));
    for (int i = 0; i < 3; ++i) a[i] = a[i] * inv;
    return inv;
}

template <class T>
struct Frame {
    T a0[3], a1[3], a2[3];
    T inv0, inv1;  // 1 / |v1 - v0|, 1 / |a0 × (v2 - v0)|
    T e1[3];       // v2 - v0
    T height;      // a2 · e1
    T k;
    T c[3];
};

template <class T>
AV_HD void triangle_frame(const T* v0, const T* v1, const T* v2, Frame<T>& f) {
    for (int i = 0; i < 3; ++i) {
        f.a0[i] = v1[i] - v0[i];
        f.e1[i] = v2[i] - v0[i];
        f.c[i] = (v0[i] + v1[i] + v2[i]) * T(1.0f / 3.0f);
    }
    const T length = sqrt_(dot(f.a0, f.a0));
    f.inv0 = normalize(f.a0);
    cross(f.a0, f.e1, f.a1);
    f.inv1 = normalize(f.a1);
    cross(f.a0, f.a1, f.a2);
    f.height = dot(f.a2, f.e1);
    f.k = T(0.5f) * (length + abs_(f.height));
}

// Unit quaternion wxyz of R = [a0 a1 a2], by the largest of the four pivots.
template <class T>
AV_HD void frame_quat(const Frame<T>& f, T* q) {
    typedef typename MaskOf<T>::type M;
    const T xx = f.a0[0], yy = f.a1[1], zz = f.a2[2], one = T(1.0f);
    const T a = f.a1[2] - f.a2[1], b = f.a2[0] - f.a0[2], c = f.a0[1] - f.a1[0];
    const T d = f.a0[1] + f.a1[0], e = f.a2[0] + f.a0[2], g = f.a1[2] + f.a2[1];
    const T sw = one + xx + yy + zz, sx = one + xx - yy - zz, sy = one - xx + yy - zz, sz = one - xx - yy + zz;
    T best = sw;
    q[0] = sw, q[1] = a, q[2] = b, q[3] = c;
    const M mx = sx > best;
    best = select(mx, sx, best);
    q[0] = select(mx, a, q[0]), q[1] = select(mx, sx, q[1]), q[2] = select(mx, d, q[2]), q[3] = select(mx, e, q[3]);
    const M my = sy > best;
    best = select(my, sy, best);
    q[0] = select(my, b, q[0]), q[1] = select(my, d, q[1]), q[2] = select(my, sy, q[2]), q[3] = select(my, g, q[3]);
    const M mz = sz > best;
    q[0] = select(mz, c, q[0]), q[1] = select(mz, e, q[1]), q[2] = select(mz, g, q[2]), q[3] = select(mz, sz, q[3]);
    const T inv = T(1.0f) / sqrt_(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    for (int i = 0; i < 4; ++i) q[i] = q[i] * inv;
}

// v0, v1, v2 gradients (written) from v_omega (to the rotation), v_k and v_c.
template <class T>
AV_HD void triangle_frame_backward(const Frame<T>& f, const T* v_omega, T v_k, const T* v_c, T* v_v0, T* v_v1, T* v_v2) {
    const T half = T(0.5f), zero = T(0.0f);
    // ω as a function of the edges: turning a0 by δe0 perpendicular to it, then turning a1 about a0.
    // δa_i = ω × a_i; with ω = ½ Σ a_i × δa_i, v_{a_i} = ½ v_ω × a_i. a2 = a0 × a1 hands its share on.
    const T sign = select(f.height >= zero, T(1.0f), T(-1.0f));
    T v_a0[3], v_a1[3], v_a2[3], t[3];
    cross(v_omega, f.a0, v_a0);
    cross(v_omega, f.a1, v_a1);
    cross(v_omega, f.a2, v_a2);
    const T v_height = half * sign * v_k;
    for (int i = 0; i < 3; ++i) {
        v_a0[i] = half * v_a0[i], v_a1[i] = half * v_a1[i];
        v_a2[i] = half * v_a2[i] + v_height * f.e1[i];
    }
    cross(f.a1, v_a2, t);  // a2 = a0 × a1: v_a0 += a1 × v_a2, v_a1 += v_a2 × a0
    for (int i = 0; i < 3; ++i) v_a0[i] = v_a0[i] + t[i];
    cross(v_a2, f.a0, t);
    for (int i = 0; i < 3; ++i) v_a1[i] = v_a1[i] + t[i];
    T v_n[3], v_e0[3], v_e1[3];  // a1 = unit(n), n = a0 × e1
    T along = dot(f.a1, v_a1);
    for (int i = 0; i < 3; ++i) v_n[i] = f.inv1 * (v_a1[i] - along * f.a1[i]);
    cross(f.e1, v_n, t);
    for (int i = 0; i < 3; ++i) v_a0[i] = v_a0[i] + t[i];
    cross(v_n, f.a0, v_e1);
    for (int i = 0; i < 3; ++i) v_e1[i] = v_e1[i] + v_height * f.a2[i];
    along = dot(f.a0, v_a0);
    for (int i = 0; i < 3; ++i) {
        v_e0[i] = f.inv0 * (v_a0[i] - along * f.a0[i]) + half * v_k * f.a0[i];
        const T third = v_c[i] * T(1.0f / 3.0f);
        v_v1[i] = third + v_e0[i];
        v_v2[i] = third + v_e1[i];
        v_v0[i] = third - v_e0[i] - v_e1[i];
    }
}

template <class T>
AV_HD void quat_multiply(const T* p, const T* q, T* out) {
    out[0] = p[0] * q[0] - p[1] * q[1] - p[2] * q[2] - p[3] * q[3];
    out[1] = p[0] * q[1] + p[1] * q[0] + p[2] * q[3] - p[3] * q[2];
    out[2] = p[0] * q[2] - p[1] * q[3] + p[2] * q[0] + p[3] * q[1];
    out[3] = p[0] * q[3] + p[1] * q[2] - p[2] * q[1] + p[3] * q[0];
}

// v rotated by the unit quaternion q: v + 2 w (u × v) + 2 u × (u × v).
template <class T>
AV_HD void quat_rotate(const T* q, const T* v, T* out) {
    T t[3], s[3];
    cross(q + 1, v, t);
    for (int i = 0; i < 3; ++i) t[i] = T(2.0f) * t[i];
    cross(q + 1, t, s);
    for (int i = 0; i < 3; ++i) out[i] = v[i] + q[0] * t[i] + s[i];
}

}  // namespace AV_NS
}  // namespace av
