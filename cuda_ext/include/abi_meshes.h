// Triangles to images. Part of abi.h.
#pragma once
#include "abi_common.h"

#ifdef __cplusplus
extern "C" {
#endif

// Nearest triangle per pixel centre, see coverage.h. Vertices in camera space (z forward); triangles may straddle the camera plane.
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

// Gradients to the points p = K·vertex (rows u·z, v·z, z) of each camera.
typedef struct AvMeshBackward {
    AvMesh forward;               // with the results of the forward call
    const float* v_barycentrics;  // [C, H, W, 3]
    const float* v_depth;         // [C, H, W]
    float* v_points;              // [C, V, 3] written
    void* scratch;                // av_mesh_backward_scratch(...)
    int64_t scratch_bytes;
} AvMeshBackward;

// Vertex attributes at the pixels: Σ_k barycentric_k · attributes[face_k], 0 where nothing is.
typedef struct AvInterpolate {
    AvLaunch launch;
    int64_t C;
    int64_t V;
    int64_t F;
    int32_t width;
    int32_t height;
    int32_t channels;
    int32_t shared;               // 1: the cameras share attributes [V, channels]
    const float* attributes;      // [C, V, channels]
    const int64_t* faces;         // [F, 3]
    const int32_t* face_ids;      // [C, H, W]
    const float* barycentrics;    // [C, H, W, 3]
    float* out;                   // [C, H, W, channels]
    const float* v_out;           // backward: [C, H, W, channels]
    float* v_attributes;          // as attributes, written; or NULL
    float* v_barycentrics;        // [C, H, W, 3], written
} AvInterpolate;

// Silhouettes by analytic coverage, see mesh.h.
typedef struct AvAntialias {
    AvLaunch launch;
    int64_t C;
    int64_t V;
    int64_t E;
    int32_t width;
    int32_t height;
    int32_t channels;
    float near_plane;
    int32_t cull_back;
    int32_t reserved;
    const float* vertices;        // [C, V, 3] camera space
    const int64_t* edges;         // [E, 4] both ends, and the third corners of the triangles at either side (second: -1 for none)
    const float* Ks;              // [C, 3, 3]
    const float* image;           // [C, H, W, channels]
    const float* depth;           // [C, H, W] of av_mesh_rasterize
    uint64_t* keys;               // [C, H, W, 2] forward → backward: the edge between each pixel and the next one in its row, column
    float* out;                   // [C, H, W, channels]
    const float* v_out;           // backward: [C, H, W, channels]
    float* v_image;               // [C, H, W, channels] written
    float* v_points;              // [C, V, 3] written, gradients to p = K·vertex
    void* scratch;                // av_antialias_scratch(C, E) bytes, forward only
    int64_t scratch_bytes;
} AvAntialias;

int32_t av_mesh_backward(const AvMeshBackward* args);
int64_t av_mesh_backward_scratch(int64_t C, int64_t F);
int32_t av_interpolate_forward(const AvInterpolate* args);
int32_t av_interpolate_backward(const AvInterpolate* args);
int32_t av_antialias_forward(const AvAntialias* args);
int32_t av_antialias_backward(const AvAntialias* args);
int64_t av_antialias_scratch(int64_t C, int64_t E);
int32_t av_mesh_rasterize(const AvMesh* args);
int64_t av_mesh_scratch(int64_t C, int64_t V, int64_t F, int32_t width, int32_t height);

#ifdef __cplusplus
}
#endif
