// Projection of Gaussians and its gradient; a thread per Gaussian (and camera, forward). The mathematics is in include/gaussian.h.
#include "project.cuh"

namespace av {

// Keeps a record, counts the tiles it touches, and zeroes what later stages add to. By all lanes of a warp.
__device__ inline void put_record(const Grid& grid, int64_t n, int camera, bool visible, const Record& record, ushort4 box,
                                  const Projections& out, const ForwardScratch& scratch) {
    if (n < grid.N) {
        out.records[camera * grid.N + n] = record;
        scratch.boxes[camera * grid.N + n] = box;
        if (camera == 0 && out.contributions) out.contributions[n] = 0;
    }
    if (camera == 0 && blockIdx.x == 0 && threadIdx.x < CLASSES) out.class_sizes[threadIdx.x] = 0;
    int* counts = scratch.counts + (int64_t)camera * grid.tiles;
    for_each_tile(grid, visible, box, record.a, record.b, 0ull,
                  [=](int tile, unsigned long long) { atomicAdd(&counts[tile], 1); });
    const unsigned seen = __ballot_sync(FULL, visible);
    if ((threadIdx.x & 31) == 0 && seen) atomicAdd(&scratch.total[1], (unsigned long long)__popc(seen));
}

template <int DEGREE>
__global__ void __launch_bounds__(THREADS)
    project_kernel(AvScene s, Grid grid, Projections out, ForwardScratch scratch) {
    const int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int camera = blockIdx.y;
    const int64_t at = camera * s.N + n;
    Record record;
    record.a = make_float4(0, 0, 0, -INFINITY), record.b = record.c = make_float4(0, 0, 0, 0);
    ushort4 box = make_ushort4(0, 0, 0, 0);
    int2 radius = make_int2(0, 0);
    bool visible = false;
    if (n < s.N) {
        const Gaussian g = load_gaussian(s, n);
        const Camera cam = load_camera(s, camera);
        const View p = view_of(s, g, cam, camera);
        if (p.visible) {
            float sh[3 * (DEGREE + 1) * (DEGREE + 1)];
            load_sh<DEGREE>(s, n, sh);
            const float3 color = color_of<DEGREE>(sh, cam, g);
            if (sane_color(color)) {
                visible = true;
                const Ellipse w = ellipse_of_cov(p.b, p.c, p.det);
                record.a = make_float4(p.u, p.v, __uint_as_float(pack_low(p.u_low, p.v_low)), log2f(p.opacity));
                record.b = make_float4(w.s, w.r, w.e, p.z);
                const float larger = fminf(ceilf(fmaxf(p.half_x, p.half_y)), 1073741824.0f);
                record.c = make_float4(fmaxf(color.x, 0.0f), fmaxf(color.y, 0.0f), fmaxf(color.z, 0.0f), larger);
                radius = make_int2((int)fminf(ceilf(p.half_x), 1073741824.0f), (int)fminf(ceilf(p.half_y), 1073741824.0f));
                box = box_of(grid, p.u, p.v, p.half_x, p.half_y);
            }
        }
        if (out.radii) reinterpret_cast<int2*>(out.radii)[at] = radius;
    }
    put_record(grid, n, camera, visible, record, box, out, scratch);
}

// The separate `rasterize`: records from projected Gaussians.
__global__ void __launch_bounds__(THREADS) pack_kernel(AvProjected in, Grid grid, Projections out, ForwardScratch scratch) {
    const int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int camera = blockIdx.y;
    const int64_t at = camera * grid.N + n;
    Record record;
    record.a = make_float4(0, 0, 0, -INFINITY), record.b = record.c = make_float4(0, 0, 0, 0);
    ushort4 box = make_ushort4(0, 0, 0, 0);
    bool visible = false;
    if (n < grid.N) {
        const int rx = in.radii[2 * at], ry = in.radii[2 * at + 1];
        visible = rx > 0 && ry > 0 && in.opacities[at] >= AV_ALPHA_MIN;
        if (visible) {
            const float conic[3] = {in.conics[3 * at], in.conics[3 * at + 1], in.conics[3 * at + 2]};
            const Ellipse w = ellipse_of_conic(conic);
            const float u = in.means2d[2 * at], v = in.means2d[2 * at + 1];
            record.a = make_float4(u, v, 0.0f, log2f(in.opacities[at]));
            record.b = make_float4(w.s, w.r, w.e, in.depths[at]);
            record.c = make_float4(in.colors[3 * at], in.colors[3 * at + 1], in.colors[3 * at + 2], (float)max(rx, ry));
            box = box_of(grid, u, v, (float)rx, (float)ry);
        }
    }
    put_record(grid, n, camera, visible, record, box, out, scratch);
}

template <int DEGREE>
__global__ void __launch_bounds__(THREADS) project_forward_kernel(AvScene s, AvProjected out) {
    const int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int camera = blockIdx.y;
    if (n >= s.N) return;
    const int64_t at = camera * s.N + n;
    const Gaussian g = load_gaussian(s, n);
    const Camera cam = load_camera(s, camera);
    View p = view_of(s, g, cam, camera);
    float3 color = make_float3(0, 0, 0);
    if (p.visible) {
        float sh[3 * (DEGREE + 1) * (DEGREE + 1)];
        load_sh<DEGREE>(s, n, sh);
        color = color_of<DEGREE>(sh, cam, g);
        p.visible = sane_color(color);
    }
    const bool v = p.visible;
    out.means2d[2 * at] = v ? p.u : 0.0f, out.means2d[2 * at + 1] = v ? p.v : 0.0f;
    const float inverse = 1.0f / p.det;
    out.conics[3 * at] = v ? p.c * inverse : 0.0f;
    out.conics[3 * at + 1] = v ? -p.b * inverse : 0.0f;
    out.conics[3 * at + 2] = v ? p.a * inverse : 0.0f;
    out.depths[at] = v ? p.z : 0.0f;
    out.colors[3 * at] = v ? fmaxf(color.x, 0.0f) : 0.0f;
    out.colors[3 * at + 1] = v ? fmaxf(color.y, 0.0f) : 0.0f;
    out.colors[3 * at + 2] = v ? fmaxf(color.z, 0.0f) : 0.0f;
    out.opacities[at] = v ? p.opacity : 0.0f;
    out.radii[2 * at] = v ? (int)fminf(ceilf(p.half_x), 1073741824.0f) : 0;
    out.radii[2 * at + 1] = v ? (int)fminf(ceilf(p.half_y), 1073741824.0f) : 0;
}

__device__ inline void add_view_gradient(const AvScene& s, const Gaussian& g, const Camera& cam, const View& w,
                                         const ViewGradient& in, GaussianGradient& out) {
    float v_quat[4], v_scale[3];
    project_shape_backward<float>(cam, g.mean, g.quat, g.scale, (s.flags & AV_ANTIALIASED) != 0, w, in.u, in.v, in.z, in.conic[0],
                                  in.conic[1], in.conic[2], in.opacity * g.opacity, out.mean, v_quat, v_scale);
    for (int i = 0; i < 4; ++i) out.quat[i] += v_quat[i];
    for (int i = 0; i < 3; ++i) out.scale[i] += (s.flags & AV_LOG_SCALES) ? v_scale[i] * g.scale[i] : v_scale[i];
    const float v_opacity = in.opacity * w.compensation;
    out.opacity += (s.flags & AV_LOGIT_OPACITIES) ? v_opacity * g.opacity * (1.0f - g.opacity) : v_opacity;
}

struct Gradients {
    float *means, *quats, *scales, *opacities, *sh;
    float *grad_norm, *count, *max_radius;
};

// MOMENTS: gradients come as sums of the rasteriser and records; otherwise as AvProjected. With several cameras the
// coefficients' gradients add up in shared memory, since 48 registers for them would halve the number of threads in flight.
template <int DEGREE, bool MOMENTS, bool SEVERAL>
__global__ void __launch_bounds__(THREADS, SEVERAL ? 3 : 4)
    project_backward_kernel(AvScene s, const Record* records, const float4* moments, AvProjected v_out, AvProjected seen,
                            Gradients out) {
    constexpr int COUNT = 3 * (DEGREE + 1) * (DEGREE + 1);
    AV_SHARED float v_sh[SEVERAL ? COUNT : 1][THREADS];
    const int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (n >= s.N) return;
    GaussianGradient gradient = {{0, 0, 0}, {0, 0, 0, 0}, {0, 0, 0}, 0};
    float Y[16], color[3] = {0, 0, 0};
#pragma unroll
    for (int k = 0; k < 16; ++k) Y[k] = 0;
    if (SEVERAL) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) v_sh[i][threadIdx.x] = 0;
    }
    Gaussian g;
    bool loaded = false;
    float norm = 0, count = 0, radius = 0;
    for (int camera = 0; camera < (SEVERAL ? (int)s.C : 1); ++camera) {
        const int64_t at = camera * s.N + n;
        float4 m[3];
        if constexpr (MOMENTS) {
            const float larger = records[at].c.w;
            if (larger > 0) count += 1, radius = fmaxf(radius, larger);
        }
        if (!reached<MOMENTS>(records, moments, seen, at, m)) continue;
        if (!loaded) g = load_gaussian(s, n);
        loaded = true;
        const Camera cam = load_camera(s, camera);
        const View w = view_of(s, g, cam, camera);
        const ViewGradient in = view_gradient<MOMENTS>(records, v_out, seen, at, m, w);
        if constexpr (MOMENTS) {
            const float x = 0.5f * s.width * in.u, y = 0.5f * s.height * in.v;
            norm += sqrtf(x * x + y * y);
        }
        add_view_gradient(s, g, cam, w, in, gradient);
        for (int i = 0; i < 3; ++i) color[i] = in.color[i];
        add_color_gradient<DEGREE>(s, n, g, cam, color, Y, gradient.mean);
        if (SEVERAL) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) v_sh[i][threadIdx.x] += Y[i / 3] * color[i % 3];
        }
    }
    for (int i = 0; i < 3; ++i) out.means[3 * n + i] = gradient.mean[i], out.scales[3 * n + i] = gradient.scale[i];
    for (int i = 0; i < 4; ++i) out.quats[4 * n + i] = gradient.quat[i];
    out.opacities[n] = gradient.opacity;
    if (out.grad_norm) out.grad_norm[n] += norm;
    if (out.count) out.count[n] += count;
    if (out.max_radius) out.max_radius[n] = fmaxf(out.max_radius[n], radius);
    if (!out.sh) return;
    const auto value = [&](int i) { return SEVERAL ? v_sh[SEVERAL ? i : 0][threadIdx.x] : Y[i / 3] * color[i % 3]; };
    float* row = out.sh + n * 3 * s.sh_bases;
    const int vectors = wide_rows(out.sh, s.sh_bases) ? COUNT / 4 : 0;
#pragma unroll
    for (int i = 0; i < COUNT / 4; ++i) {
        const float4 f = make_float4(value(4 * i), value(4 * i + 1), value(4 * i + 2), value(4 * i + 3));
        if (vectors) reinterpret_cast<float4*>(row)[i] = f;
        else row[4 * i] = f.x, row[4 * i + 1] = f.y, row[4 * i + 2] = f.z, row[4 * i + 3] = f.w;
    }
#pragma unroll
    for (int i = COUNT / 4 * 4; i < COUNT; ++i) row[i] = value(i);
    for (int i = COUNT; i < 3 * s.sh_bases; ++i) row[i] = 0.0f;
}

// Gradients of the separate `rasterize`.
__global__ void __launch_bounds__(THREADS)
    unpack_kernel(AvRasterizeBackward args, const Record* records, const float4* moments) {
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= args.N * args.C) return;
    ViewGradient g = {0, 0, 0, 0, {0, 0, 0}, {0, 0, 0}};
    if (records[at].c.w > 0) {
        const float4 m[3] = {moments[3 * at], moments[3 * at + 1], moments[3 * at + 2]};
        const float* conic = args.in.conics + 3 * at;
        g = from_sums(m, conic[0], conic[1], conic[2], args.in.opacities[at], make_float4(1, 1, 1, 1));
    }
    args.v_in.means2d[2 * at] = g.u, args.v_in.means2d[2 * at + 1] = g.v;
    args.v_in.depths[at] = g.z, args.v_in.opacities[at] = g.opacity;
    for (int i = 0; i < 3; ++i) args.v_in.conics[3 * at + i] = g.conic[i], args.v_in.colors[3 * at + i] = g.color[i];
}

void launch_project(const AvScene& s, const Grid& grid, const Projections& out, const ForwardScratch& scratch,
                    cudaStream_t stream) {
    const dim3 blocks(blocks_for(s.N, THREADS), (unsigned)s.C);
#define AV_CALL(D) launch(project_kernel<D>, blocks, dim3(THREADS), stream, s, grid, out, scratch)
    AV_BY_DEGREE(s.sh_degree, AV_CALL)
#undef AV_CALL
}

void launch_pack(const AvProjected& in, const Grid& grid, const Projections& out, const ForwardScratch& scratch,
                 cudaStream_t stream) {
    launch(pack_kernel, dim3(blocks_for(grid.N, THREADS), (unsigned)grid.C), dim3(THREADS), stream, in, grid, out, scratch);
}

void launch_splat_project_backward(const AvSplatBackward& args, const Grid& grid, const Record* records,
                                   const float* gradients, cudaStream_t stream) {
    const Gradients out = {args.v_means, args.v_quats,   args.v_scales, args.v_opacities,
                           args.v_sh,    args.grad_norm, args.count,    args.max_radius};
    const AvProjected none = {};
    const dim3 blocks(blocks_for(grid.N, THREADS));
    const float4* sums = reinterpret_cast<const float4*>(gradients);
#define AV_CALL(D)                                                                                            \
    launch(grid.C > 1 ? project_backward_kernel<D, true, true> : project_backward_kernel<D, true, false>, blocks, \
           dim3(THREADS), stream, args.scene, records, sums, none, none, out)
    AV_BY_DEGREE(args.scene.sh_degree, AV_CALL)
#undef AV_CALL
    launch_camera_gradients(args.scene, records, gradients, none, none, {args.v_viewmats, args.v_Ks, args.camera_sums}, stream);
}

void launch_unpack_gradients(const AvRasterizeBackward& args, const Record* records, const float* gradients,
                             cudaStream_t stream) {
    launch(unpack_kernel, dim3(blocks_for(args.N * args.C, THREADS)), dim3(THREADS), stream, args, records,
           reinterpret_cast<const float4*>(gradients));
}

}  // namespace av

extern "C" {

int32_t av_project_forward(const AvProject* args) {
    using namespace av;
    const AvScene& s = args->scene;
    const OnDevice device(args->launch);
    const dim3 blocks(blocks_for(s.N, THREADS), (unsigned)s.C);
    const cudaStream_t stream = stream_of(args->launch);
#define AV_CALL(D) launch(project_forward_kernel<D>, blocks, dim3(THREADS), stream, s, args->out)
    AV_BY_DEGREE(s.sh_degree, AV_CALL)
#undef AV_CALL
    return finish("project");
}

int32_t av_project_backward(const AvProjectBackward* args) {
    using namespace av;
    const AvScene& s = args->scene;
    const OnDevice device(args->launch);
    const cudaStream_t stream = stream_of(args->launch);
    const Gradients out = {args->v_means, args->v_quats, args->v_scales, args->v_opacities, args->v_sh, nullptr, nullptr, nullptr};
    const dim3 blocks(blocks_for(s.N, THREADS));
#define AV_CALL(D)                                                                                                   \
    launch(s.C > 1 ? project_backward_kernel<D, false, true> : project_backward_kernel<D, false, false>, blocks, \
           dim3(THREADS), stream, s, (const Record*)nullptr, (const float4*)nullptr, args->v_out, args->out, out)
    AV_BY_DEGREE(s.sh_degree, AV_CALL)
#undef AV_CALL
    launch_camera_gradients(s, nullptr, nullptr, args->v_out, args->out, {args->v_viewmats, args->v_Ks, args->camera_sums}, stream);
    return finish("project backward");
}

}  // extern "C"
