// The plain C interface of both libraries (CPU: cuda_ext/libavatars_cpu.so, CUDA: cuda_ext/libavatars_cuda.so).
//
// The caller allocates everything; the library receives pointers, sizes and, on CUDA, the current stream. Tensors are
// contiguous float32 unless said otherwise, row-major with the shapes given. Each function returns an AvStatus and
// never throws; av_error() describes the last failure of the calling thread. cuda_ext/abi.py mirrors this file field by field, and
// the sizes of the structures are compared when a library is opened.
//
// Workspaces are opaque bytes: `av_splat_sizes` says how many `saved` (forward → backward) and `scratch` (one call)
// bytes the library at hand wants for a number of Gaussian-tile instances (`capacity`). A forward that meets more
// instances than `capacity` writes the number that it needs to counters[0] and counters[1] = 1; the CPU then returns
// AV_OVERFLOW and writes nothing else; CUDA cannot know before the launch ends, so it drops instances and leaves the
// flag for the host to read when it likes.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AV_ABI_VERSION 1

typedef enum AvStatus { AV_OK = 0, AV_OVERFLOW = 1, AV_INVALID = 2, AV_DEVICE = 3, AV_UNSUPPORTED = 4 } AvStatus;

typedef enum AvFlags {
    AV_ANTIALIASED = 1,      // compensate the opacity for the low-pass filter
    AV_LOG_SCALES = 2,       // scales hold logarithms; gradients are to the logarithms
    AV_LOGIT_OPACITIES = 4,  // opacities hold logits; gradients are to the logits
} AvFlags;

// Where and how to run. CUDA: device and stream; CPU: number of threads (≥ 1; results do not depend on it).
typedef struct AvLaunch {
    void* stream;
    int32_t device;
    int32_t threads;
} AvLaunch;

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
} AvBindBackward;

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

// One parameter of a fused Adam step (Kingma & Ba 2015). A tensor is seen as rows × columns; columns before
// `head_columns` move at `lr`, the others at `lr_tail` (SH: the constant term learns faster than the rest).
typedef struct AvAdamTensor {
    float* param;          // [rows, columns]
    const float* grad;     // [rows, columns], or [row_count, columns] with row_ids
    float* m;              // [rows, columns]
    float* v;              // [rows, columns]
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
    int64_t factor_size;
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
    // backward: v_out are read, v_delta [N, 10] and v_weights [K] written; ∂L/∂basis = v_delta ⊗ weights
    const float* v_out[3];
    float* v_delta;
    float* v_weights;
    void* scratch;         // K · (N / 1024 + 1) floats
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

int32_t av_abi_version(void);
int64_t av_abi_size(const char* structure);  // sizeof by name, -1 when unknown
const char* av_error(void);
const char* av_isa(void);                    // "base", "avx2", "avx512"; CUDA: the architectures compiled in

int32_t av_splat_sizes(const AvScene* scene, int64_t capacity, int32_t threads, int64_t* saved, int64_t* scratch);
int32_t av_splat_forward(const AvSplatForward* args);
int32_t av_splat_backward(const AvSplatBackward* args);
int32_t av_project_forward(const AvProject* args);
int32_t av_project_backward(const AvProjectBackward* args);
int32_t av_rasterize_forward(const AvRasterize* args);   // workspaces as av_splat_sizes
int32_t av_rasterize_backward(const AvRasterizeBackward* args);
int32_t av_bind_forward(const AvBind* args);
int32_t av_bind_backward(const AvBindBackward* args);
int64_t av_bind_scratch(int64_t V, int64_t F, int64_t N);
int32_t av_ssim_forward(const AvSsim* args);
int32_t av_ssim_backward(const AvSsimBackward* args);
int32_t av_ssim_sizes(int64_t B, int32_t height, int32_t width, int32_t threads, int64_t* saved, int64_t* scratch);
int32_t av_adam(const AvAdam* args);
int32_t av_blend_forward(const AvBlend* args);
int32_t av_blend_backward(const AvBlend* args);
int32_t av_penalty(const AvPenalty* args);
int32_t av_mesh_rasterize(const AvMesh* args);
int64_t av_mesh_scratch(int64_t C, int64_t V, int64_t F, int32_t width, int32_t height);
// Multi-resolution hash grid, see include/hash.h. On the host: scales and resolutions [levels], offsets [levels + 1]. positions [N, 3] in
// 0..1, table [offsets[levels], features], out and v_out [N, levels · features]; v_table and v_positions are written, NULL to skip.
int32_t av_hash_forward(const AvLaunch* launch, int64_t N, int32_t levels, int32_t features, const float* scales,
                        const int32_t* resolutions, const int64_t* offsets, const float* positions, const float* table,
                        float* out);
int32_t av_hash_backward(const AvLaunch* launch, int64_t N, int32_t levels, int32_t features, const float* scales,
                         const int32_t* resolutions, const int64_t* offsets, const float* positions, const float* table,
                         const float* v_out, float* v_table, float* v_positions);

#ifdef __cplusplus
}
#endif
