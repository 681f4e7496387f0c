// The operators of one instruction set, as a table; api.cpp chooses the table.
#pragma once
#include "../include/abi.h"

namespace av {

struct Kernels {
    const char* name;
    decltype(&::av_splat_sizes) splat_sizes;
    decltype(&::av_splat_forward) splat_forward;
    decltype(&::av_splat_backward) splat_backward;
    decltype(&::av_project_forward) project_forward;
    decltype(&::av_project_backward) project_backward;
    decltype(&::av_rasterize_forward) rasterize_forward;
    decltype(&::av_rasterize_backward) rasterize_backward;
    decltype(&::av_bind_forward) bind_forward;
    decltype(&::av_bind_backward) bind_backward;
    decltype(&::av_bind_scratch) bind_scratch;
    decltype(&::av_ssim) ssim;
    decltype(&::av_ssim_scratch) ssim_scratch;
    decltype(&::av_adam) adam;
    decltype(&::av_mesh_rasterize) mesh_rasterize;
    decltype(&::av_mesh_scratch) mesh_scratch;
    decltype(&::av_mesh_backward) mesh_backward;
    decltype(&::av_mesh_backward_scratch) mesh_backward_scratch;
    decltype(&::av_interpolate_forward) interpolate_forward;
    decltype(&::av_interpolate_backward) interpolate_backward;
    decltype(&::av_antialias_forward) antialias_forward;
    decltype(&::av_antialias_backward) antialias_backward;
    decltype(&::av_antialias_scratch) antialias_scratch;
    decltype(&::av_hash_encode) hash_encode;
    decltype(&::av_hash_encode_backward) hash_encode_backward;
    decltype(&::av_hash_scratch) hash_scratch;
    decltype(&::av_hash_tables) hash_tables;
    decltype(&::av_hash_tables_backward) hash_tables_backward;
    decltype(&::av_hash_tables_scratch) hash_tables_scratch;
    decltype(&::av_blend_forward) blend_forward;
    decltype(&::av_blend_backward) blend_backward;
    decltype(&::av_penalty) penalty;
    decltype(&::av_carry_forward) carry_forward;
    decltype(&::av_carry_backward) carry_backward;
    decltype(&::av_carry_scratch) carry_scratch;
    decltype(&::av_skin_forward) skin_forward;
    decltype(&::av_skin_backward) skin_backward;
    decltype(&::av_skin_scratch) skin_scratch;
    decltype(&::av_compose) compose;
    decltype(&::av_march_count) march_count;
    decltype(&::av_march_fill) march_fill;
    decltype(&::av_composite_forward) composite_forward;
    decltype(&::av_composite_backward) composite_backward;
};

extern const Kernels kernels_base, kernels_avx2, kernels_avx512;

}  // namespace av
