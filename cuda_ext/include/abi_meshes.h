// Triangles to images. Part of abi.h.
#pragma once
#include "abi_common.h"

#ifdef __cplusplus
extern "C" {
#endif

// Nearest triangle per pixel centre. Vertices in camera space (z forward); triangles may straddle the camera plane.
typedef struct AvMesh {
    AvLaunch launch;
    int64_t C;
    int64_t V;
    int64_t F;
    int32_t width;
    int32_t height;
    float near_plane;
    int32_t cull_back;         // 1: drop triangles that are clockwise in the image seen from outside
    const float* vertices;     // [C, V, 3]
    const int64_t* faces;      // [F, 3]
    const float* Ks;           // [C, 3, 3]
    int32_t* face_ids;         // [C, H, W], -1 where nothing is
    float* barycentrics;       // [C, H, W, 3] perspective-correct, 0 where nothing is
    float* depth;              // [C, H, W] camera z, 0 where nothing is
    void* scratch;             // av_mesh_scratch(...)
    int64_t scratch_bytes;
} AvMesh;

int32_t av_mesh_rasterize(const AvMesh* args);
int64_t av_mesh_scratch(int64_t C, int64_t V, int64_t F, int32_t width, int32_t height);

#ifdef __cplusplus
}
#endif
