// From Gaussians to images: projection, compositing, and both in one pass. Constants and rules: semantics.h. Part of abi.h.
#pragma once
#include "abi_common.h"

#ifdef __cplusplus
extern "C" {
#endif

#define AV_CAMERA_SUMS 17  // gradients to a camera: rotation, translation, and the five of K

// N Gaussians seen by C cameras.
typedef struct AvScene {
    int64_t N;
    int64_t C;
    int32_t width;
    int32_t height;
    int32_t sh_bases;   // K: coefficients stored per Gaussian and channel: 1, 4, 9 or 16
    int32_t sh_degree;  // degree evaluated, (degree+1)² ≤ K; gradients of the rest are zero
    int32_t flags;      // AvFlags
    float near_plane;
    float eps2d;
    float reserved;
    const float* means;        // [N, 3]
    const float* quats;        // [N, 4] wxyz, any length but zero
    const float* scales;       // [N, 3]
    const float* opacities;    // [N]
    const float* sh;           // [N, K, 3]
    const float* viewmats;     // [C, 4, 4]
    const float* Ks;           // [C, 3, 3]
    const float* backgrounds;  // [C, 3] or NULL (black)
} AvScene;

typedef struct AvSplatForward {
    AvLaunch launch;
    AvScene scene;
    int64_t capacity;      // Gaussian-tile instances that the workspaces hold
    float* color;          // [C, H, W, 3]
    float* alpha;          // [C, H, W]
    float* depth;          // [C, H, W] or NULL
    int32_t* radii;        // [C, N, 2] or NULL
    float* contributions;  // [N] or NULL; written, not accumulated
    int32_t* counters;     // [4]: instances needed, overflow flag, visible Gaussians, 0
    void* saved;
    int64_t saved_bytes;
    void* scratch;
    int64_t scratch_bytes;
} AvSplatForward;

typedef struct AvSplatBackward {
    AvLaunch launch;
    AvScene scene;
    int64_t capacity;
    const float* color;    // outputs of the forward pass
    const float* alpha;
    const float* depth;    // or NULL, then v_depth must be NULL
    const float* v_color;  // [C, H, W, 3]
    const float* v_alpha;  // [C, H, W] or NULL
    const float* v_depth;  // [C, H, W] or NULL
    float* v_means;        // [N, 3]; these five are written, not accumulated
    float* v_quats;        // [N, 4]
    float* v_scales;       // [N, 3]
    float* v_opacities;    // [N]
    float* v_sh;           // [N, K, 3] or NULL
    float* grad_norm;      // [N] or NULL; these three are accumulated, see semantics.h
    float* count;          // [N] or NULL
    float* max_radius;     // [N] or NULL
    const void* saved;
    int64_t saved_bytes;
    void* scratch;
    int64_t scratch_bytes;
    float* contributions;  // [N] or NULL, accumulated; CPU only: cheaper here than in the forward pass
    float* v_viewmats;     // [C, 4, 4] or NULL, written
    float* v_Ks;           // [C, 3, 3] or NULL, as v_viewmats
    float* camera_sums;    // [C, ceil(N / 64), AV_CAMERA_SUMS] to work in, or NULL as v_viewmats
} AvSplatBackward;

// The two halves of the splat as separate operators. All per camera: [C, N, ...].
typedef struct AvProjected {
    float* means2d;    // [C, N, 2] pixels
    float* conics;     // [C, N, 3] inverse of cov2d: xx, xy, yy
    float* depths;     // [C, N] camera z
    float* colors;     // [C, N, 3]
    float* opacities;  // [C, N] after activation and compensation
    int32_t* radii;    // [C, N, 2]; 0 means culled, and the other fields are then 0
} AvProjected;

typedef struct AvProject {
    AvLaunch launch;
    AvScene scene;
    AvProjected out;
} AvProject;

typedef struct AvProjectBackward {
    AvLaunch launch;
    AvScene scene;
    AvProjected out;       // as the forward pass wrote it
    AvProjected v_out;     // gradients to it (radii unused); none NULL
    float* v_means;        // written, summed over cameras
    float* v_quats;
    float* v_scales;
    float* v_opacities;
    float* v_sh;           // or NULL
    float* v_viewmats;     // [C, 4, 4] or NULL, written
    float* v_Ks;           // [C, 3, 3] or NULL, as v_viewmats
    float* camera_sums;    // [C, ceil(N / 64), AV_CAMERA_SUMS] to work in, or NULL as v_viewmats
} AvProjectBackward;

typedef struct AvRasterize {
    AvLaunch launch;
    int64_t N;
    int64_t C;
    int32_t width;
    int32_t height;
    int64_t capacity;
    AvProjected in;
    const float* backgrounds;  // [C, 3] or NULL
    float* color;              // [C, H, W, 3]
    float* alpha;              // [C, H, W]
    float* depth;              // [C, H, W]
    float* contributions;      // [N] or NULL
    int32_t* counters;         // [4]
    void* saved;
    int64_t saved_bytes;
    void* scratch;
    int64_t scratch_bytes;
} AvRasterize;

typedef struct AvRasterizeBackward {
    AvLaunch launch;
    int64_t N;
    int64_t C;
    int32_t width;
    int32_t height;
    int64_t capacity;
    AvProjected in;
    AvProjected v_in;          // written (radii unused)
    const float* backgrounds;
    const float* color;
    const float* alpha;
    const float* depth;
    const float* v_color;
    const float* v_alpha;      // or NULL
    const float* v_depth;      // or NULL
    const void* saved;
    int64_t saved_bytes;
    void* scratch;
    int64_t scratch_bytes;
} AvRasterizeBackward;

int32_t av_splat_sizes(const AvScene* scene, int64_t capacity, int32_t threads, int64_t* saved, int64_t* scratch);
int32_t av_splat_forward(const AvSplatForward* args);
int32_t av_splat_backward(const AvSplatBackward* args);
int32_t av_project_forward(const AvProject* args);
int32_t av_project_backward(const AvProjectBackward* args);
int32_t av_rasterize_forward(const AvRasterize* args);   // workspaces as av_splat_sizes
int32_t av_rasterize_backward(const AvRasterizeBackward* args);

#ifdef __cplusplus
}
#endif
