// Rays through volumes: occupancy-grid marching and compositing of packed samples. Rules: volume.h. Part of abi.h.
#pragma once
#include "abi_common.h"

#ifdef __cplusplus
extern "C" {
#endif

#define AV_MARCH_RUNS 8  // stretches of neighbouring samples noted per ray; beyond these the second call marches again

// Samples of R rays inside the occupied cells of nested grids. Called twice: av_march_count marches, fills `counts` and notes where the
// samples are in `runs`; av_march_fill writes them.
typedef struct AvMarch {
    AvLaunch launch;
    int64_t R;
    int32_t levels;            // grid l spans the box scaled by 2^l about its centre
    int32_t cells[3];          // per level along x, y, z
    float near_plane;          // distances along the ray, in lengths of its direction
    float far_plane;
    float step;
    float bend;                // number of steps before they grow; beyond any when they never do
    float turn;                // distance at which they begin to grow
    float growth;              // log2 of the factor from one step to the next, 0 when they never grow
    float box[6];              // lowest and highest corner of level 0
    const float* origins;      // [R, 3]
    const float* directions;   // [R, 3] any length but zero
    const float* jitter;       // [R] in 0..1, or NULL: 0
    const uint8_t* occupancy;  // [levels, x, y, z] 0: empty
    int64_t* counts;           // [R] written by av_march_count
    int32_t* runs;             // [R, AV_MARCH_RUNS, 2] from av_march_count to av_march_fill
    // av_march_fill:
    const int64_t* offsets;    // [R + 1] first sample of each ray; those at `capacity` and beyond are dropped
    int64_t capacity;
    int64_t* ray_ids;          // [capacity]
    float* starts;             // [capacity]
    float* ends;               // [capacity]
} AvMarch;

// Absorption and emission along each ray (Max 1995), samples packed ray after ray.
typedef struct AvComposite {
    AvLaunch launch;
    int64_t R;
    int64_t S;
    int32_t channels;
    float stop;                // samples reached with less transmittance do not count
    const int64_t* offsets;    // [R + 1] in 0..S, not falling
    const float* densities;    // [S] per length
    const float* colors;       // [S, channels]
    const float* starts;       // [S]
    const float* ends;         // [S]
    const float* backgrounds;  // [R, channels] or NULL (black)
    float* weights;            // [S] 0 where nothing counts
    float* color;              // [R, channels]
    float* alpha;              // [R]
    float* depth;              // [R] expected distance, 0 where alpha is 0
} AvComposite;

typedef struct AvCompositeBackward {
    AvComposite forward;       // as in the forward call, with its results
    const float* v_weights;    // [S] or NULL
    const float* v_color;      // [R, channels]
    const float* v_alpha;      // [R] or NULL
    const float* v_depth;      // [R] or NULL
    float* v_densities;        // [S]; all written
    float* v_colors;           // [S, channels]
    float* v_starts;           // [S] or NULL with v_ends
    float* v_ends;             // [S]
} AvCompositeBackward;

int32_t av_march_count(const AvMarch* args);
int32_t av_march_fill(const AvMarch* args);
int32_t av_composite_forward(const AvComposite* args);
int32_t av_composite_backward(const AvCompositeBackward* args);

#ifdef __cplusplus
}
#endif
