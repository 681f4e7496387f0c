// The posed head. Part of abi.h.
#pragma once
#include "abi_common.h"

#ifdef __cplusplus
extern "C" {
#endif

// Blendshapes and linear blend skinning of a head with V vertices in B poses; equations in include/skin.h:
//   vertex = Σ_j weight_j (A_j (rest + Σ_m coefficient_m offset_m) + b_j).
// Coefficients are the E expressions and then, for heads with pose-dependent shapes, the 9·J entries of R_j - 1. Vertices come in groups of
// AV_SKIN_GROUP; arrays marked "lanes" hold, for each group, one run of 32 floats per value, zero beyond V. A group lists only the shapes
// that move any of its vertices: entries starts[g] to starts[g + 1].
typedef struct AvSkin {
    AvLaunch launch;
    int64_t B;
    int64_t V;
    int64_t E;
    int64_t J;                  // joints, the root not counted; at most AV_SKIN_JOINTS
    int64_t shapes;             // coefficients per pose: E, or E + 9·J
    int64_t entries;
    float scale;
    int32_t reserved;
    const int32_t* parents;     // [J], parents first, -1: the root
    const float* joints;        // [J, 3] at rest
    const float* rest;          // [groups, 3] lanes
    const float* skin_weights;  // [groups, J + 1] lanes, the root last
    const float* turns;         // [E, J, 3] axis-angle that an expression adds to the joints
    const int32_t* starts;      // [groups + 1]
    const int32_t* indices;     // [entries] which coefficient
    const float* offsets;       // [entries, 3] lanes
    const float* expression;    // [B, E]
    const float* angles;        // [B, J, 3] axis-angle
    const float* rotation;      // [B, 3] axis-angle of the root
    const float* translation;   // [B, 3]
    float* vertices;            // [B, V, 3]
    float* shaped;              // [B, groups, 3] lanes: rest and shapes, kept for the backward pass
    float* transforms;          // [B, J + 1, 3, 4], likewise
    // backward: v_vertices is read, the other four are written
    const float* v_vertices;
    float* v_expression;
    float* v_angles;
    float* v_rotation;
    float* v_translation;
    void* scratch;              // backward: av_skin_scratch(...)
    int64_t scratch_bytes;
} AvSkin;

int32_t av_skin_forward(const AvSkin* args);
int32_t av_skin_backward(const AvSkin* args);
int64_t av_skin_scratch(int64_t B, int64_t V, int64_t J, int64_t shapes);

#ifdef __cplusplus
}
#endif
