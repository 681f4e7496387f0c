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
