// Gaussians that ride on triangles, their blendshapes and penalties. Part of abi.h.
#pragma once
#include "abi_common.h"

#ifdef __cplusplus
extern "C" {
#endif

// Triangle frames → Gaussians (Qian et al. 2024, GaussianAvatars, eq. 2-4). See include/bind.h.
typedef struct AvBind {
    AvLaunch launch;
    int64_t V;
    int64_t F;
    int64_t N;
    int32_t flags;             // AV_LOG_SCALES: local_scales hold logarithms, scales are plain
    int32_t reserved;
    const float* vertices;     // [V, 3]
    const int64_t* faces;      // [F, 3]
    const int64_t* face_ids;   // [N]
    const float* local_means;  // [N, 3]
    const float* local_quats;  // [N, 4]
    const float* local_scales; // [N, 3]
    float* means;              // [N, 3]
    float* quats;              // [N, 4]
    float* scales;             // [N, 3]
    void* scratch;             // forward only: av_bind_scratch(V, F, N) bytes
    int64_t scratch_bytes;
} AvBind;

typedef struct AvBindBackward {
    AvBind forward;            // as in the forward call (means, quats, scales hold its results)
    const float* v_means;      // [N, 3]
    const float* v_quats;      // [N, 4]
    const float* v_scales;     // [N, 3]
    float* v_vertices;         // [V, 3] or NULL; all written
    float* v_local_means;      // [N, 3]
    float* v_local_quats;      // [N, 4]
    float* v_local_scales;     // [N, 3]
    void* scratch;             // av_bind_scratch(V, F, N) bytes
    int64_t scratch_bytes;
    int64_t kept;              // 1: the scratch is that of the forward call with the same vertices, untouched since
} AvBindBackward;

// Blendshapes of Gaussians: [mean 3, quaternion 4, constant SH term 3] += basis · weights.
typedef struct AvBlend {
    AvLaunch launch;
    int64_t N;
    int32_t K;             // 1..64
    int32_t sh_bases;
    const float* basis;    // [N, 10, K]
    const float* weights;  // [K]
    const float* in[3];    // means [N, 3], quats [N, 4], sh [N, sh_bases, 3]
    float* out[3];         // the same shapes
    float* size;           // [1] Σ of the squared corrections of mean and colour over all Gaussians, / 3N; NULL to skip this and delta
    float* delta;          // [N, 10] the corrections, kept for the backward pass of `size`
    // backward: v_out are read, v_delta [N, 10] and v_weights [K] written; ∂L/∂basis = v_delta ⊗ weights
    const float* v_out[3];
    const float* v_size;   // [1] with delta, or NULL
    float* v_delta;
    float* v_weights;
    void* scratch;         // backward: K · (N / 1024 + 1) floats; forward with `size`: N / 1024 + 1 doubles
    int64_t scratch_bytes;
} AvBlend;

// Means over Gaussians of max(0, ‖mean‖ - reach), max(0, scale - max_scale·max(1, reach)) and opacity, each times its weight.
typedef struct AvPenalty {
    AvLaunch launch;
    int64_t N;
    float position_weight;
    float scale_weight;
    float opacity_weight;
    float max_scale;
    const float* means;            // [N, 3]
    const float* log_scales;       // [N, 3]
    const float* logit_opacities;  // [N]
    const float* reach;            // [N]
    float* loss;                   // [1]
    float* v_means;                // [N, 3], gradients of the loss; NULL to skip all three
    float* v_log_scales;
    float* v_logit_opacities;
    void* scratch;                 // 8 · (N / 1024 + 1) bytes
    int64_t scratch_bytes;
} AvPenalty;

// blend, then bind with logarithms of scales, and the penalties of both, in one pass over the Gaussians.
//   cost = AvPenalty's loss of the corrected means, log scales and opacities + size_weight · AvBlend's size
typedef struct AvCarry {
    AvLaunch launch;
    int64_t V;
    int64_t F;
    int64_t N;
    int32_t K;                     // 1..64
    int32_t sh_bases;
    float position_weight;
    float scale_weight;
    float opacity_weight;
    float max_scale;
    float size_weight;
    int32_t reserved;
    const float* vertices;         // [V, 3]
    const int64_t* faces;          // [F, 3]
    const int64_t* face_ids;       // [N]
    const float* basis;            // [N, 10, K]
    const float* weights;          // [K]
    const float* in[4];            // means [N, 3], quats [N, 4], log scales [N, 3], sh [N, sh_bases, 3]
    const float* logit_opacities;  // [N], with cost
    const float* reach;            // [N], with cost
    float* out[4];                 // in the world: means, quats, scales, sh
    float* cost;                   // [1], or NULL
    void* saved;                   // av_carry_scratch(V, F, N, K) bytes; the backward call wants them as the forward call left them
    int64_t saved_bytes;
} AvCarry;

typedef struct AvCarryBackward {
    AvCarry forward;               // as in the forward call, without out and cost
    const float* v_out[4];
    const float* v_cost;           // [1], or NULL
    float* v_vertices;             // [V, 3], or NULL
    float* v_weights;              // [K]
    float* v_in[3];                // means, quats, log scales; that of sh is v_out[3]
    float* v_logit_opacities;      // [N], with v_cost
    float* v_delta;                // [N, 10], as in AvBlend; NULL with move
    const struct AvAdam* move;     // one tensor, the basis, with factor = weights: it takes its step in the same pass. grad is not read. Or NULL
} AvCarryBackward;

int32_t av_bind_forward(const AvBind* args);
int32_t av_bind_backward(const AvBindBackward* args);
int64_t av_bind_scratch(int64_t V, int64_t F, int64_t N);
int32_t av_blend_forward(const AvBlend* args);
int32_t av_blend_backward(const AvBlend* args);
int32_t av_penalty(const AvPenalty* args);
int32_t av_carry_forward(const AvCarry* args);
int32_t av_carry_backward(const AvCarryBackward* args);
int64_t av_carry_scratch(int64_t V, int64_t F, int64_t N, int32_t K);

#ifdef __cplusplus
}
#endif
