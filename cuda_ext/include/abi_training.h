// What pictures differ by, and Adam. Part of abi.h.
#pragma once
#include "abi_common.h"

#ifdef __cplusplus
extern "C" {
#endif

// What rendered pictures differ from others by. Per image b, over 3 channels and the pixels that are not cropped, with weights w (1 where
// NULL):
//   l1[b] = mean(w |a-b|),   ssim[b] = mean(w · map),
//   loss[b] = l1_factor · l1[b] + ssim_factor · mean(w (1 - map)) + matte_factor · mean |alpha - mattes| over all pixels.
// The gradients are those of Σ_b loss[b]: they are made here, where all that they need passes by anyway.
typedef struct AvSsim {
    AvLaunch launch;
    int64_t B;
    int32_t height;
    int32_t width;
    int32_t crop;          // pixels left out of the mean at each border: 0 ("same") or AV_SSIM_RADIUS ("valid")
    float l1_factor;
    float ssim_factor;
    float matte_factor;
    const float* a;        // [B, H, W, 3]
    const float* b;        // [B, H, W, 3]
    const float* weights;  // [B, H, W] or NULL
    const float* alpha;    // [B, H, W] or NULL: no mattes in the loss
    const float* mattes;   // [B, H, W]
    float* l1;             // [B]
    float* ssim;           // [B]
    float* loss;           // [B]
    float* v_a;            // [B, H, W, 3] or NULL
    float* v_alpha;        // [B, H, W] or NULL
    void* scratch;         // av_ssim_scratch(...) bytes
    int64_t scratch_bytes;
} AvSsim;

enum {
    AV_ADAM_COLUMNS = 640,  // the most columns of a tensor with two learning rates, even above 320; and of one with a factored gradient
};

typedef enum AvAdamFlags {
    // m and v are the upper halves of floats (bfloat16). The first moment is rounded to the nearest. The second changes by a thousandth in a
    // step, less than half a unit of such a number, and would stand still: element i of a row, or of the tensor without row_ids, is rounded
    // up in step t where its lower half and ((i mod 16)·AV_ROUND_LANE + t·AV_ROUND_STEP) mod 2¹⁶ reach 2¹⁶: over the steps, as often as it
    // should.
    AV_HALF_MOMENTS = 1,
    AV_WHOLE_GRAD = 2,  // grad has all rows also with row_ids
} AvAdamFlags;
#define AV_ROUND_LANE 0x1000u
#define AV_ROUND_STEP 0x79b9u

// One parameter of a fused Adam step (Kingma & Ba 2015). A tensor is seen as rows × columns; columns before
// `head_columns` move at `lr`, the others at `lr_tail` (SH: the constant term learns faster than the rest).
typedef struct AvAdamTensor {
    float* param;          // [rows, columns]
    const float* grad;     // [rows, columns], or [row_count, columns] with row_ids and without AV_WHOLE_GRAD
    void* m;               // [rows, columns]
    void* v;               // [rows, columns]
    int64_t rows;
    int64_t columns;
    int64_t head_columns;
    const int64_t* row_ids;  // [row_count] distinct rows to touch, or NULL: all
    int64_t row_count;
    float lr;
    float lr_tail;
    // Gradient of rank one per row, never written out: element (r, i) is grad[r, i / factor_size] · factor[i % factor_size], so grad is
    // [rows, columns / factor_size]. NULL: grad is as above.
    const float* factor;
    int64_t factor_size;   // 1..64
    int64_t flags;         // AvAdamFlags
} AvAdamTensor;

typedef struct AvAdam {
    AvLaunch launch;
    const AvAdamTensor* tensors;  // host memory
    int64_t count;
    double beta1;
    double beta2;
    double eps;
    double step;              // counted from 1; ignored when step_ptr is given
    const float* step_ptr;    // CUDA: device scalar, so that a captured graph can advance; CPU: NULL
} AvAdam;

int32_t av_ssim(const AvSsim* args);
int64_t av_ssim_scratch(int64_t B, int32_t height, int32_t width, int32_t threads, int32_t gradient);  // gradient: 1 when v_a is wanted
int32_t av_adam(const AvAdam* args);

#ifdef __cplusplus
}
#endif
