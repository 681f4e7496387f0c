// Compiled once per instruction set with AV_ISA (128, 256, 512), AV_NS (a namespace) and AV_NAME (base, avx2, avx512). No
// standard library templates here: the linker could take a copy compiled for a newer machine into the base path.
#include "kernels.h"

#include "adam_ops.h"
#include "bind_ops.h"
#include "hash_blend_ops.h"
#include "hash_tables_ops.h"
#include "blend_ops.h"
#include "carry_ops.h"
#include "mesh_gradient_ops.h"
#include "mesh_ops.h"
#include "skin_ops.h"
#include "picture_ops.h"
#include "project_ops.h"
#include "splat_ops.h"
#include "ssim_ops.h"
#include "volume_ops.h"

#define AV_JOIN2(a, b) a##b
#define AV_JOIN(a, b) AV_JOIN2(a, b)
#define AV_TEXT2(a) #a
#define AV_TEXT(a) AV_TEXT2(a)

namespace av {

const Kernels AV_JOIN(kernels_, AV_NAME) = {
    AV_TEXT(AV_NAME),
    AV_NS::splat_sizes,
    AV_NS::splat_forward,
    AV_NS::splat_backward,
    AV_NS::project_forward,
    AV_NS::project_backward,
    AV_NS::rasterize_forward,
    AV_NS::rasterize_backward,
    AV_NS::bind_forward,
    AV_NS::bind_backward,
    AV_NS::bind_scratch,
    AV_NS::ssim,
    AV_NS::ssim_scratch,
    AV_NS::adam_step,
    AV_NS::mesh_rasterize,
    AV_NS::mesh_scratch,
    AV_NS::mesh_backward,
    AV_NS::mesh_backward_scratch,
    AV_NS::interpolate_forward,
    AV_NS::interpolate_backward,
    AV_NS::antialias_forward,
    AV_NS::antialias_backward,
    AV_NS::antialias_scratch,
    AV_NS::hash_encode,
    AV_NS::hash_encode_backward,
    AV_NS::hash_scratch,
    AV_NS::hash_tables,
    AV_NS::hash_tables_backward,
    AV_NS::hash_tables_scratch,
    AV_NS::blend_forward,
    AV_NS::blend_backward,
    AV_NS::penalty,
    AV_NS::carry_forward,
    AV_NS::carry_backward,
    AV_NS::carry_scratch,
    AV_NS::skin_forward,
    AV_NS::skin_backward,
    AV_NS::skin_scratch,
    AV_NS::compose,
    AV_NS::march_count,
    AV_NS::march_fill,
    AV_NS::composite_forward,
    AV_NS::composite_backward,
};

}  // namespace av
