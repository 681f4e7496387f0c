// The C interface of the CPU library: chooses the instruction set, checks what the kernels rely on, forwards.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../include/skin.h"
#include "../include/semantics.h"
#include "../include/volume.h"
#include "kernels.h"

namespace {

using av::Kernels;

thread_local char t_error[256] = "";

const Kernels* choose() {
    const Kernels* best = &av::kernels_base;
#if defined(AV_HAVE_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const char* forced = getenv("AVATARS_ISA");  // "base" or "avx2": for tests and comparisons
    if (avx2 && !(forced && !strcmp(forced, "base"))) best = &av::kernels_avx2;
    if (avx512 && !(forced && (!strcmp(forced, "base") || !strcmp(forced, "avx2")))) best = &av::kernels_avx512;
#endif
    return best;
}

const Kernels& kernels() {
    static const Kernels* const chosen = choose();
    return *chosen;
}

int32_t refuse(const char* what) {
    snprintf(t_error, sizeof t_error, "%s", what);
    return AV_INVALID;
}

int32_t finish(int32_t status, const int32_t* counters, int64_t capacity) {
    if (status == AV_OVERFLOW)
        snprintf(t_error, sizeof t_error, "%d Gaussian-tile instances do not fit a capacity of %lld", counters[0],
                 (long long)capacity);
    return status;
}

bool bad_image(int32_t width, int32_t height) { return width <= 0 || height <= 0 || width > 32767 || height > 32767; }

const char* bad_scene(const AvScene& s) {
    if (s.N < 0 || s.C < 0 || s.N * (s.C > 0 ? s.C : 1) > 0x7fffffff) return "N and C must be non-negative and N·C fit 31 bits";
    if (bad_image(s.width, s.height)) return "width and height must be 1..32767";
    const int bases = (s.sh_degree + 1) * (s.sh_degree + 1);
    if (s.sh_degree < 0 || s.sh_degree > 3 || bases > s.sh_bases) return "sh_degree must be 0..3 and covered by sh_bases";
    if (s.sh_bases != 1 && s.sh_bases != 4 && s.sh_bases != 9 && s.sh_bases != 16) return "sh_bases must be 1, 4, 9 or 16";
    if (!(s.near_plane > 0.0f)) return "the near plane must be in front of the camera";
    return nullptr;
}

const char* bad_workspace(const AvScene& scene, int64_t capacity, int threads, int64_t saved, int64_t scratch) {
    int64_t need_saved = 0, need_scratch = 0;
    if (capacity < 0) return "capacity must not be negative";
    kernels().splat_sizes(&scene, capacity, threads, &need_saved, &need_scratch);
    return saved < need_saved || scratch < need_scratch ? "a workspace is smaller than av_splat_sizes says" : nullptr;
}

// Whether an index is outside of [0, limit): then it or its distance from the last has the highest bit. Without branches and
// comparisons any machine checks several at a time.
bool bad_indices(const int64_t* indices, int64_t count, int64_t limit) {
    uint64_t bits = 0;
    for (int64_t i = 0; i < count; ++i) bits |= (uint64_t)indices[i] | ((uint64_t)limit - 1 - (uint64_t)indices[i]);
    return bits >> 63;
}

const char* bad_bind(const AvBind& in) {
    if (in.V < 0 || in.F < 0 || in.N < 0) return "V, F and N must not be negative";
    if (bad_indices(in.faces, 3 * in.F, in.V)) return "faces must index the vertices";
    if (bad_indices(in.face_ids, in.N, in.F)) return "face_ids must index the faces";
    return nullptr;
}

const char* bad_ssim(const AvSsim& in) {
    if (in.B < 0 || bad_image(in.width, in.height)) return "width and height must be 1..32767";
    if (in.crop < 0 || 2 * in.crop >= in.width || 2 * in.crop >= in.height) return "the crop leaves no pixels";
    if (in.scratch_bytes < kernels().ssim_scratch(in.B, in.height, in.width, in.launch.threads, in.v_a != nullptr)) return "scratch is too small";
    return nullptr;
}

const char* bad_blend(const AvBlend& in) {
    if (in.N < 0 || in.K < 1 || in.K > 64) return "a blend has 1..64 shapes";
    if (in.sh_bases != 1 && in.sh_bases != 4 && in.sh_bases != 9 && in.sh_bases != 16) return "sh_bases must be 1, 4, 9 or 16";
    if ((in.size || in.v_size) && !in.delta) return "the size of the corrections needs room for them";
    return nullptr;
}

const char* bad_adam(const AvAdamTensor& t) {
    const int64_t most = t.columns % 2 ? AV_ADAM_COLUMNS / 2 : AV_ADAM_COLUMNS;
    if (t.columns > most && t.head_columns < t.columns) return "two learning rates need at most 320 columns, or an even number up to 640";
    if (t.factor && (t.row_ids || t.factor_size < 1 || t.factor_size > 64 || t.columns > AV_ADAM_COLUMNS || t.columns % t.factor_size))
        return "a factored gradient needs all rows and at most 640 columns that its factor of 1..64 divides";
    return nullptr;
}

const char* bad_carry(const AvCarry& in) {
    if (in.V < 0 || in.F < 0 || in.N < 0) return "V, F and N must not be negative";
    if (in.K < 1 || in.K > 64) return "a blend has 1..64 shapes";
    if (in.sh_bases != 1 && in.sh_bases != 4 && in.sh_bases != 9 && in.sh_bases != 16) return "sh_bases must be 1, 4, 9 or 16";
    if (bad_indices(in.faces, 3 * in.F, in.V)) return "faces must index the vertices";
    if (bad_indices(in.face_ids, in.N, in.F)) return "face_ids must index the faces";
    if (in.saved_bytes < av_carry_scratch(in.V, in.F, in.N, in.K)) return "a workspace is smaller than av_carry_scratch says";
    return nullptr;
}

const char* bad_skin(const AvSkin& in) {
    if (in.B < 0 || in.V < 0 || in.E < 0) return "B, V and E must not be negative";
    if (in.J < 1 || in.J > AV_SKIN_JOINTS) return "a head has 1..64 joints";
    if (in.shapes != in.E && in.shapes != in.E + 9 * in.J) return "shapes must be E or E + 9·J";
    for (int64_t j = 0; j < in.J; ++j)
        if (in.parents[j] < -1 || in.parents[j] >= j) return "parents must come before their children";
    const int64_t groups = (in.V + AV_SKIN_GROUP - 1) / AV_SKIN_GROUP;
    if (in.starts[0] != 0 || in.starts[groups] != in.entries) return "starts must run from 0 to the number of entries";
    for (int64_t g = 0; g < groups; ++g)
        if (in.starts[g] > in.starts[g + 1]) return "starts must ascend";
    for (int64_t n = 0; n < in.entries; ++n)
        if (in.indices[n] < 0 || in.indices[n] >= in.shapes) return "indices must name shapes";
    if (in.scratch_bytes < kernels().skin_scratch(in.B, in.V, in.J, in.shapes)) return "scratch is too small";
    return nullptr;
}

const char* bad_hash(const AvHash& in) {
    if (in.N < 0 || in.levels < 1 || in.levels > 32) return "the hash grid must have 1..32 levels";
    if (in.features != 1 && in.features != 2 && in.features != 4 && in.features != 8) return "features per level must be 1, 2, 4 or 8";
    if (in.heads < 0 || in.heads > AV_HASH_HEADS) return "a hash ensemble must have 1..64 heads";
    for (int i = 0; i < in.levels; ++i) {
        if (in.offsets[i + 1] <= in.offsets[i] || in.offsets[i + 1] - in.offsets[i] > 0xffffffffll) return "a level must have 1..2^32 rows";
    }
    if (in.scratch_bytes < kernels().hash_scratch(&in)) return "scratch is too small";
    return nullptr;
}

const char* bad_hash_tables(const AvHashTables& in) {
    if (in.rows < 0 || in.heads < 1 || in.heads > AV_HASH_HEADS) return "a hash ensemble must have 1..64 heads";
    if (in.features != 1 && in.features != 2 && in.features != 4 && in.features != 8) return "features per level must be 1, 2, 4 or 8";
    if (in.v_out && in.scratch_bytes < kernels().hash_tables_scratch(&in)) return "scratch is too small";
    return nullptr;
}

const char* bad_march(const AvMarch& in) {
    if (in.R < 0) return "R must not be negative";
    if (in.levels < 1 || in.levels > 16) return "the occupancy must have 1..16 levels";
    for (const int32_t cells : in.cells)
        if (cells < 1 || (in.levels > 1 && cells % 4)) return "a grid must have cells, nested ones multiples of 4";
    if (!(in.step > 0.0f) || !(in.far_plane >= in.near_plane)) return "step must be positive, far not before near";
    if (!(in.growth >= 0.0f) || !(av::steps_to(in, in.far_plane) <= AV_MARCH_STEPS)) return "far - near has more steps than float32 can count";
    return nullptr;
}

const char* bad_mesh(const AvMesh& in) {
    if (bad_image(in.width, in.height)) return "width and height must be 1..32767";
    if (!(in.near_plane > 0.0f)) return "the near plane must be in front of the camera";
    if (bad_indices(in.faces, 3 * in.F, in.V)) return "faces must index the vertices";
    return nullptr;
}

const char* bad_interpolate(const AvInterpolate& in) {
    if (bad_image(in.width, in.height) || in.channels < 1) return "width and height must be 1..32767, and there must be channels";
    if (bad_indices(in.faces, 3 * in.F, in.V)) return "faces must index the vertices";
    return nullptr;
}

const char* bad_antialias(const AvAntialias& in) {
    if (bad_image(in.width, in.height) || in.channels < 1) return "width and height must be 1..32767, and there must be channels";
    if (!(in.near_plane > 0.0f)) return "the near plane must be in front of the camera";
    if (in.E > 0x7fffffff) return "too many edges for one call";
    for (int64_t i = 0; i < 4 * in.E; ++i)
        if (in.edges[i] >= in.V || in.edges[i] < (i % 4 == 3 ? -1 : 0)) return "edges must index the vertices";
    return nullptr;
}

// Offsets that start at 0 or later, never fall, and end within the samples.
bool bad_offsets(const int64_t* offsets, int64_t rays, int64_t samples) {
    bool bad = offsets[0] < 0 || offsets[rays] > samples;
    for (int64_t r = 0; r < rays; ++r) bad |= offsets[r + 1] < offsets[r];
    return bad;
}

const char* bad_composite(const AvComposite& in) {
    if (in.R < 0 || in.S < 0 || in.channels < 1) return "R and S must not be negative, and there must be channels";
    if (in.offsets[0] != 0 || bad_offsets(in.offsets, in.R, in.S)) return "offsets must rise from 0 to at most the number of samples";
    return nullptr;
}

AvScene image_scene(int64_t N, int64_t C, int32_t width, int32_t height) {
    AvScene s;
    memset(&s, 0, sizeof s);
    s.N = N, s.C = C, s.width = width, s.height = height, s.sh_bases = 1, s.near_plane = 1.0f;
    return s;
}

}  // namespace

#define AV_REFUSE_IF(expression) \
    if (const char* why = (expression)) return refuse(why)

extern "C" {

int32_t av_abi_version(void) { return AV_ABI_VERSION; }
const char* av_error(void) { return t_error; }
const char* av_unusable(void) { return nullptr; }
const char* av_isa(void) { return kernels().name; }

int64_t av_abi_size(const char* structure) {
#define AV_SIZE(name) \
    if (!strcmp(structure, #name)) return (int64_t)sizeof(name)
    AV_SIZE(AvLaunch);
    AV_SIZE(AvScene);
    AV_SIZE(AvSplatForward);
    AV_SIZE(AvSplatBackward);
    AV_SIZE(AvProjected);
    AV_SIZE(AvProject);
    AV_SIZE(AvProjectBackward);
    AV_SIZE(AvRasterize);
    AV_SIZE(AvRasterizeBackward);
    AV_SIZE(AvBind);
    AV_SIZE(AvBindBackward);
    AV_SIZE(AvSsim);
    AV_SIZE(AvAdamTensor);
    AV_SIZE(AvAdam);
    AV_SIZE(AvBlend);
    AV_SIZE(AvPenalty);
    AV_SIZE(AvCarry);
    AV_SIZE(AvCarryBackward);
    AV_SIZE(AvMesh);
    AV_SIZE(AvMeshBackward);
    AV_SIZE(AvInterpolate);
    AV_SIZE(AvAntialias);
    AV_SIZE(AvHash);
    AV_SIZE(AvHashTables);
    AV_SIZE(AvSkin);
    AV_SIZE(AvCompose);
    AV_SIZE(AvMarch);
    AV_SIZE(AvComposite);
    AV_SIZE(AvCompositeBackward);
#undef AV_SIZE
    return -1;
}

int32_t av_splat_sizes(const AvScene* scene, int64_t capacity, int32_t threads, int64_t* saved, int64_t* scratch) {
    return kernels().splat_sizes(scene, capacity, threads, saved, scratch);
}

int32_t av_splat_forward(const AvSplatForward* args) {
    AV_REFUSE_IF(bad_scene(args->scene));
    AV_REFUSE_IF(bad_workspace(args->scene, args->capacity, args->launch.threads, args->saved_bytes, args->scratch_bytes));
    return finish(kernels().splat_forward(args), args->counters, args->capacity);
}

int32_t av_splat_backward(const AvSplatBackward* args) {
    AV_REFUSE_IF(bad_scene(args->scene));
    AV_REFUSE_IF(bad_workspace(args->scene, args->capacity, args->launch.threads, args->saved_bytes, args->scratch_bytes));
    if (!(args->scene.flags & AV_FOR_GRADIENTS)) return refuse("the forward pass must be told AV_FOR_GRADIENTS");
    if (args->v_depth && !args->depth) return refuse("v_depth needs depth");
    return kernels().splat_backward(args);
}

int32_t av_project_forward(const AvProject* args) {
    AV_REFUSE_IF(bad_scene(args->scene));
    return kernels().project_forward(args);
}

int32_t av_project_backward(const AvProjectBackward* args) {
    AV_REFUSE_IF(bad_scene(args->scene));
    return kernels().project_backward(args);
}

int32_t av_rasterize_forward(const AvRasterize* args) {
    const AvScene scene = image_scene(args->N, args->C, args->width, args->height);
    AV_REFUSE_IF(bad_scene(scene));
    AV_REFUSE_IF(bad_workspace(scene, args->capacity, args->launch.threads, args->saved_bytes, args->scratch_bytes));
    return finish(kernels().rasterize_forward(args), args->counters, args->capacity);
}

int32_t av_rasterize_backward(const AvRasterizeBackward* args) {
    const AvScene scene = image_scene(args->N, args->C, args->width, args->height);
    AV_REFUSE_IF(bad_scene(scene));
    AV_REFUSE_IF(bad_workspace(scene, args->capacity, args->launch.threads, args->saved_bytes, args->scratch_bytes));
    return kernels().rasterize_backward(args);
}

int32_t av_bind_forward(const AvBind* args) {
    AV_REFUSE_IF(bad_bind(*args));
    if (args->scratch_bytes < av_bind_scratch(args->V, args->F, args->N)) return refuse("scratch is too small");
    return kernels().bind_forward(args);
}

int32_t av_bind_backward(const AvBindBackward* args) {
    const AvBind& in = args->forward;
    AV_REFUSE_IF(bad_bind(in));
    if (args->scratch_bytes < av_bind_scratch(in.V, in.F, in.N)) return refuse("scratch is too small");
    return kernels().bind_backward(args);
}

int64_t av_bind_scratch(int64_t V, int64_t F, int64_t N) { return kernels().bind_scratch(V, F, N); }

int32_t av_ssim(const AvSsim* args) {
    AV_REFUSE_IF(bad_ssim(*args));
    return kernels().ssim(args);
}

int64_t av_ssim_scratch(int64_t B, int32_t height, int32_t width, int32_t threads, int32_t gradient) {
    return kernels().ssim_scratch(B, height, width, threads, gradient);
}

int32_t av_adam(const AvAdam* args) {
    for (int64_t i = 0; i < args->count; ++i) {
        const AvAdamTensor& t = args->tensors[i];
        AV_REFUSE_IF(bad_adam(t));
        if (t.row_ids && bad_indices(t.row_ids, t.row_count, t.rows)) return refuse("row_ids must index the rows");
    }
    return kernels().adam(args);
}

int32_t av_blend_forward(const AvBlend* args) {
    AV_REFUSE_IF(bad_blend(*args));
    if (args->size && args->scratch_bytes < (args->N / 1024 + 1) * (int64_t)sizeof(double)) return refuse("scratch is too small");
    return kernels().blend_forward(args);
}

int32_t av_blend_backward(const AvBlend* args) {
    AV_REFUSE_IF(bad_blend(*args));
    if (args->scratch_bytes < args->K * (args->N / 1024 + 1) * (int64_t)sizeof(float)) return refuse("scratch is too small");
    return kernels().blend_backward(args);
}

int32_t av_carry_forward(const AvCarry* args) {
    AV_REFUSE_IF(bad_carry(*args));
    return kernels().carry_forward(args);
}

int32_t av_carry_backward(const AvCarryBackward* args) {
    const AvCarry& in = args->forward;
    AV_REFUSE_IF(bad_carry(in));
    if (args->move) {
        if (args->move->count != 1) return refuse("one tensor moves: the basis");
        const AvAdamTensor& t = args->move->tensors[0];
        if (t.param != in.basis || t.factor != in.weights || t.rows != in.N || t.columns != 10 * in.K || t.factor_size != in.K)
            return refuse("the tensor that moves must be the basis, and its factor the weights");
        AV_REFUSE_IF(bad_adam(t));
    }
    return kernels().carry_backward(args);
}

int64_t av_carry_scratch(int64_t V, int64_t F, int64_t N, int32_t K) { return kernels().carry_scratch(V, F, N, K); }

int32_t av_penalty(const AvPenalty* args) {
    if (args->N < 1) return refuse("a mean needs Gaussians");
    if (args->scratch_bytes < (args->N / 1024 + 1) * (int64_t)sizeof(double)) return refuse("scratch is too small");
    return kernels().penalty(args);
}

int32_t av_skin_forward(const AvSkin* args) {
    AV_REFUSE_IF(bad_skin(*args));
    return kernels().skin_forward(args);
}

int32_t av_skin_backward(const AvSkin* args) {
    AV_REFUSE_IF(bad_skin(*args));
    return kernels().skin_backward(args);
}

int64_t av_skin_scratch(int64_t B, int64_t V, int64_t J, int64_t shapes) { return kernels().skin_scratch(B, V, J, shapes); }

int32_t av_compose(const AvCompose* args) {
    if (args->C < 0 || args->W < 0 || bad_image(args->width, args->height)) return refuse("width and height must be 1..32767");
    if (args->halve && (args->width < 2 || args->height < 2)) return refuse("half of an image needs 2 pixels a side");
    return kernels().compose(args);
}

int64_t av_mesh_scratch(int64_t C, int64_t V, int64_t F, int32_t width, int32_t height) {
    return kernels().mesh_scratch(C, V, F, width, height);
}

int32_t av_mesh_rasterize(const AvMesh* args) {
    AV_REFUSE_IF(bad_mesh(*args));
    if (args->scratch_bytes < av_mesh_scratch(args->C, args->V, args->F, args->width, args->height))
        return refuse("scratch is too small");
    return kernels().mesh_rasterize(args);
}

int64_t av_mesh_backward_scratch(int64_t C, int64_t F) { return kernels().mesh_backward_scratch(C, F); }

int32_t av_mesh_backward(const AvMeshBackward* args) {
    AV_REFUSE_IF(bad_mesh(args->forward));
    if (args->scratch_bytes < av_mesh_backward_scratch(args->forward.C, args->forward.F)) return refuse("scratch is too small");
    return kernels().mesh_backward(args);
}

int32_t av_interpolate_forward(const AvInterpolate* args) {
    AV_REFUSE_IF(bad_interpolate(*args));
    return kernels().interpolate_forward(args);
}

int32_t av_interpolate_backward(const AvInterpolate* args) {
    AV_REFUSE_IF(bad_interpolate(*args));
    return kernels().interpolate_backward(args);
}

int64_t av_antialias_scratch(int64_t C, int64_t E) { return kernels().antialias_scratch(C, E); }

int32_t av_antialias_forward(const AvAntialias* args) {
    AV_REFUSE_IF(bad_antialias(*args));
    if (args->scratch_bytes < av_antialias_scratch(args->C, args->E)) return refuse("scratch is too small");
    return kernels().antialias_forward(args);
}

int32_t av_antialias_backward(const AvAntialias* args) {
    AV_REFUSE_IF(bad_antialias(*args));
    return kernels().antialias_backward(args);
}

int32_t av_march_count(const AvMarch* args) {
    AV_REFUSE_IF(bad_march(*args));
    return kernels().march_count(args);
}

int32_t av_march_fill(const AvMarch* args) {
    AV_REFUSE_IF(bad_march(*args));
    if (bad_offsets(args->offsets, args->R, INT64_MAX)) return refuse("offsets must rise from 0");
    return kernels().march_fill(args);
}

int32_t av_composite_forward(const AvComposite* args) {
    AV_REFUSE_IF(bad_composite(*args));
    return kernels().composite_forward(args);
}

int32_t av_composite_backward(const AvCompositeBackward* args) {
    AV_REFUSE_IF(bad_composite(args->forward));
    return kernels().composite_backward(args);
}

int32_t av_hash_encode(const AvHash* args) {
    AV_REFUSE_IF(bad_hash(*args));
    return kernels().hash_encode(args);
}

int32_t av_hash_encode_backward(const AvHash* args) {
    AV_REFUSE_IF(bad_hash(*args));
    return kernels().hash_encode_backward(args);
}

int64_t av_hash_scratch(const AvHash* args) { return kernels().hash_scratch(args); }

int32_t av_hash_tables(const AvHashTables* args) {
    AV_REFUSE_IF(bad_hash_tables(*args));
    return kernels().hash_tables(args);
}

int32_t av_hash_tables_backward(const AvHashTables* args) {
    AV_REFUSE_IF(bad_hash_tables(*args));
    return kernels().hash_tables_backward(args);
}

int64_t av_hash_tables_scratch(const AvHashTables* args) { return kernels().hash_tables_scratch(args); }

}  // extern "C"
