// Structural similarity and Adam. Part of abi.h.
#pragma once
#include "abi_common.h"

#ifdef __cplusplus
extern "C" {
#endif

// SSIM and L1 + SSIM. Per image b and pixel p with weight w (1 where weights is NULL), over 3 channels:
//   l1[b] = mean(w |a-b|),  ssim[b] = mean(w · ssim map),  mean over all pixels not cropped.
// With gradients, v_a = v_l1[b] ∂l1/∂a + v_ssim[b] ∂ssim/∂a.
typedef struct AvSsim {
    AvLaunch launch;
    int64_t B;
    int32_t height;
    int32_t width;
    int32_t crop;          // pixels left out of the mean at each border: 0 ("same") or AV_SSIM_RADIUS ("valid")
    int32_t reserved;
    const float* a;        // [B, H, W, 3]
    const float* b;        // [B, H, W, 3]
    const float* weights;  // [B, H, W] or NULL
    float* l1;             // [B] or NULL
    float* ssim;           // [B]
    void* saved;           // av_ssim_sizes says how much; NULL when no gradient will be asked for
    int64_t saved_bytes;
    void* scratch;
    int64_t scratch_bytes;
} AvSsim;

typedef struct AvSsimBackward {
    AvLaunch launch;
    int64_t B;
    int32_t height;
    int32_t width;
    int32_t crop;
    int32_t reserved;
    const float* a;
    const float* b;
    const float* weights;
    const void* saved;
    int64_t saved_bytes;
    const float* v_l1;     // [B] or NULL
    const float* v_ssim;   // [B]
    float* v_a;            // [B, H, W, 3]
    void* scratch;
    int64_t scratch_bytes;
} AvSsimBackward;

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
    // [rows, columns / factor_size]. NULL: grad is as above. CPU only.
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

int32_t av_ssim_forward(const AvSsim* args);
int32_t av_ssim_backward(const AvSsimBackward* args);
int32_t av_ssim_sizes(int64_t B, int32_t height, int32_t width, int32_t threads, int64_t* saved, int64_t* scratch);
int32_t av_adam(const AvAdam* args);

#ifdef __cplusplus
}
#endif
