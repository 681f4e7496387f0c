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

// Given v_Y, adds ∂L/∂(x, y, z) to v_x, v_y, v_z (the polynomials' gradient; the caller projects it onto the sphere).
template <class T>
AV_HD void sh_basis_backward(int degree, T x, T y, T z, const T* v_Y, T& v_x, T& v_y, T& v_z) {
    if (degree < 1) return;
    const T c1 = T(0.4886025119029199f);
    v_y = v_y - c1 * v_Y[1];
    v_z = v_z + c1 * v_Y[2];
    v_x = v_x - c1 * v_Y[3];
    if (degree < 2) return;
    const T c2 = T(1.0925484305920792f);
    const T v4 = c2 * v_Y[4], v5 = c2 * v_Y[5], v6 = T(0.6307831305050401f) * v_Y[6], v7 = c2 * v_Y[7];
    const T v8 = T(1.0925484305920792f) * v_Y[8];
    v_x = v_x + v4 * y - v6 * x - v7 * z + v8 * x;
    v_y = v_y + v4 * x - v5 * z - v6 * y - v8 * y;
    v_z = v_z - v5 * y + T(2.0f) * v6 * z - v7 * x;
    if (degree < 3) return;
    const T xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
    const T v9 = T(-0.5900435899266435f) * v_Y[9], v10 = T(2.890611442640554f) * v_Y[10];
    const T v11 = T(-0.4570457994644658f) * v_Y[11], v12 = T(0.3731763325901154f) * v_Y[12];
    const T v13 = T(-0.4570457994644658f) * v_Y[13], v14 = T(1.445305721320277f) * v_Y[14];
    const T v15 = T(-0.5900435899266435f) * v_Y[15];
    const T three = T(3.0f), six = T(6.0f), two = T(2.0f), four = T(4.0f), eight = T(8.0f);
    v_x = v_x + six * v9 * xy + v10 * yz - two * v11 * xy - six * v12 * xz + v13 * (four * zz - three * xx - yy) +
          two * v14 * xz + three * v15 * (xx - yy);
    v_y = v_y + three * v9 * (xx - yy) + v10 * xz + v11 * (four * zz - xx - three * yy) - six * v12 * yz - two * v13 * xy -
          two * v14 * yz - six * v15 * xy;
    v_z = v_z + v10 * xy + eight * v11 * yz + v12 * (six * zz - three * (xx + yy)) + eight * v13 * xz + v14 * (xx - yy);
}

}  // namespace AV_NS
}  // namespace av
