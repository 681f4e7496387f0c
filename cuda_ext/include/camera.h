// A pinhole camera as the kernels see it: any K, world → camera, plus what is derived once per camera.
#pragma once
#include "portable.h"
#include "semantics.h"

namespace av {
inline namespace AV_NS {

struct Camera {
    float R[9], t[3];  // world → camera
    float fx, skew, cx, fy, cy;
    float center[3];  // in the world
    float x_min, x_max, y_min, y_max;  // where the Jacobian is evaluated at most, in x/z and y/z
    float width, height;
    float near_plane, eps2d;
};

// Gradients to a camera, as they are summed over Gaussians: R, t, then K.
enum CameraSums { CAMERA_R = 0, CAMERA_T = 9, CAMERA_FX = 12, CAMERA_SKEW, CAMERA_CX, CAMERA_FY, CAMERA_CY };

// Those to viewmat [4, 4] and K [3, 3] from the sums.
AV_HD void camera_gradient(const double* sums, float* v_viewmat, float* v_K) {
    for (int i = 0; i < 16; ++i) v_viewmat[i] = i >= 12 ? 0.0f : (float)(i % 4 == 3 ? sums[CAMERA_T + i / 4] : sums[CAMERA_R + 3 * (i / 4) + i % 4]);
    for (int i = 0; i < 9; ++i) v_K[i] = 0.0f;
    v_K[0] = (float)sums[CAMERA_FX], v_K[1] = (float)sums[CAMERA_SKEW], v_K[2] = (float)sums[CAMERA_CX];
    v_K[4] = (float)sums[CAMERA_FY], v_K[5] = (float)sums[CAMERA_CY];
}

AV_HD Camera make_camera(const float* viewmat, const float* K, int width, int height, float near_plane, float eps2d) {
    Camera c;
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) c.R[3 * i + j] = viewmat[4 * i + j];
        c.t[i] = viewmat[4 * i + 3];
    }
    for (int j = 0; j < 3; ++j) c.center[j] = -(c.R[j] * c.t[0] + c.R[3 + j] * c.t[1] + c.R[6 + j] * c.t[2]);
    c.fx = K[0], c.skew = K[1], c.cx = K[2], c.fy = K[4], c.cy = K[5];
    c.width = (float)width, c.height = (float)height;
    const float mx = AV_FRUSTUM_MARGIN * c.width, my = AV_FRUSTUM_MARGIN * c.height;
    c.x_min = -(c.cx + mx) / c.fx, c.x_max = (c.width - c.cx + mx) / c.fx;
    c.y_min = -(c.cy + my) / c.fy, c.y_max = (c.height - c.cy + my) / c.fy;
    c.near_plane = near_plane, c.eps2d = eps2d;
    return c;
}

}  // namespace AV_NS
}  // namespace av
