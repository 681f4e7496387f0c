// Real spherical harmonics to degree 3 in the order and signs of 3DGS, and their gradient to the direction.
#pragma once
#include "portable.h"

namespace av {
inline namespace AV_NS {

// Y[0..(degree+1)²) at the unit vector (x, y, z).
template <class T>
AV_HD void sh_basis(int degree, T x, T y, T z, T* Y) {
    Y[0] = T(0.28209479177387814f);
    if (degree < 1) return;
    const T c1 = T(0.4886025119029199f);
    Y[1] = -(c1 * y);
    Y[2] = c1 * z;
    Y[3] = -(c1 * x);
    if (degree < 2) return;
    const T xx = x * x, yy = y * y, zz = z * z;
    const T c2 = T(1.0925484305920792f);
    Y[4] = c2 * x * y;
    Y[5] = -(c2 * y * z);
    Y[6] = T(0.31539156525252005f) * (T(2.0f) * zz - xx - yy);
    Y[7] = -(c2 * x * z);
    Y[8] = T(0.5462742152960396f) * (xx - yy);
    if (degree < 3) return;
    Y[9] = T(-0.5900435899266435f) * y * (T(3.0f) * xx - yy);
    Y[10] = T(2.890611442640554f) * x * y * z;
    Y[11] = T(-0.4570457994644658f) * y * (T(4.0f) * zz - xx - yy);
    Y[12] = T(0.3731763325901154f) * z * (T(2.0f) * zz - T(3.0f) * (xx + yy));
    Y[13] = T(-0.4570457994644658f) * x * (T(4.0f) * zz - xx - yy);
    Y[14] = T(1.445305721320277f) * z * (xx - yy);
    Y[15] = T(-0.5900435899266435f) * x * (xx - T(3.0f) * yy);
}

// Calls add(k, axis, ∂Y[k]/∂axis) for what is not zero: the polynomials' gradient, which the caller projects onto the sphere.
template <class T, class Add>
AV_HD void sh_slopes(int degree, T x, T y, T z, Add&& add) {
    if (degree < 1) return;
    const T c1 = T(0.4886025119029199f);
    add(1, 1, -c1), add(2, 2, c1), add(3, 0, -c1);
    if (degree < 2) return;
    const T c2 = T(1.0925484305920792f), c6 = T(0.6307831305050401f);
    const T x2 = c2 * x, y2 = c2 * y, z2 = c2 * z;
    add(4, 0, y2), add(4, 1, x2);
    add(5, 1, -z2), add(5, 2, -y2);
    add(6, 0, -(c6 * x)), add(6, 1, -(c6 * y)), add(6, 2, T(2.0f) * c6 * z);
    add(7, 0, -z2), add(7, 2, -x2);
    add(8, 0, x2), add(8, 1, -y2);
    if (degree < 3) return;
    const T xx = x * x, yy = y * y, zz4 = T(4.0f) * z * z, xy = x * y, yz = y * z, xz = x * z, saddle = xx - yy;
    const T c9 = T(-1.7701307697799304f), c10 = T(2.890611442640554f), c11 = T(-0.4570457994644658f), c12 = T(1.1195289977703462f);
    const T c14 = T(1.445305721320277f), two = T(2.0f), eight = T(8.0f);
    const T xy9 = two * c9 * xy, saddle9 = c9 * saddle, xy11 = -two * c11 * xy, xz12 = two * c12 * xz, yz12 = two * c12 * yz;
    add(9, 0, xy9), add(9, 1, saddle9);
    add(10, 0, c10 * yz), add(10, 1, c10 * xz), add(10, 2, c10 * xy);
    add(11, 0, xy11), add(11, 1, c11 * (zz4 - xx - T(3.0f) * yy)), add(11, 2, eight * c11 * yz);
    add(12, 0, -xz12), add(12, 1, -yz12), add(12, 2, c12 * (T(0.5f) * zz4 - xx - yy));
    add(13, 0, c11 * (zz4 - T(3.0f) * xx - yy)), add(13, 1, xy11), add(13, 2, eight * c11 * xz);
    add(14, 0, two * c14 * xz), add(14, 1, -(two * c14 * yz)), add(14, 2, c14 * saddle);
    add(15, 0, saddle9), add(15, 1, -xy9);
}

// Given v_Y, adds ∂L/∂(x, y, z) to v_x, v_y, v_z.
template <class T>
AV_HD void sh_basis_backward(int degree, T x, T y, T z, const T* v_Y, T& v_x, T& v_y, T& v_z) {
    T v[3] = {v_x, v_y, v_z};
    sh_slopes(degree, x, y, z, [&](int k, int axis, T slope) { v[axis] = v[axis] + slope * v_Y[k]; });
    v_x = v[0], v_y = v[1], v_z = v[2];
}

}  // namespace AV_NS
}  // namespace av
