// Projection of blocks of Gaussians, sixteen at a time, and its gradient.
#pragma once
#include "splat.h"

namespace av {
inline namespace AV_NS {

// Sixteen Gaussians in one camera, before packing.
struct Lanes {
    Shape<F16> shape;
    F16 opacity, log2_opacity;  // activated and compensated
    F16 color[3];
    F16 direction[3], inv_distance;
    F16 extent2, extent_x, extent_y;
    M16 visible;
};

struct Params {
    F16 mean[3], quat[4], scale[3], opacity, raw_opacity;
    M16 finite;
};

template <int S>
AV_INLINE M16 all_finite(const F16* rows) {
    F16 total = rows[0] * F16(0.0f);
    for (int i = 1; i < S; ++i) total = fma_(rows[i], F16(0.0f), total);
    return total == F16(0.0f);
}

// Reads Gaussians [n, n + count) and applies the activations; lanes beyond `count` repeat the first.
AV_OUTLINE Params load_params(const AvScene& scene, int64_t n, int count) {
    Params p;
    load_rows<3>(scene.means + 3 * n, count, p.mean);
    load_rows<4>(scene.quats + 4 * n, count, p.quat);
    load_rows<3>(scene.scales + 3 * n, count, p.scale);
    load_rows<1>(scene.opacities + n, count, &p.raw_opacity);
    p.finite = all_finite<3>(p.mean) & all_finite<4>(p.quat) & all_finite<3>(p.scale) & all_finite<1>(&p.raw_opacity);
    p.opacity = p.raw_opacity;
    if (scene.flags & AV_LOG_SCALES)
        for (int i = 0; i < 3; ++i) p.scale[i] = exp_(p.scale[i]);
    if (scene.flags & AV_LOGIT_OPACITIES) p.opacity = F16(1.0f) / (F16(1.0f) + exp_(-p.raw_opacity));
    const F16 squared = p.quat[0] * p.quat[0] + p.quat[1] * p.quat[1] + p.quat[2] * p.quat[2] + p.quat[3] * p.quat[3];
    p.finite = p.finite & (squared > F16(1e-30f));
    return p;
}

template <int K>
AV_OUTLINE void lanes_color(const AvScene& scene, int64_t n, int count, Lanes& out) {
    F16 Y[16], sh[3 * K];
    sh_basis(scene.sh_degree, out.direction[0], out.direction[1], out.direction[2], Y);
    load_rows<3 * K>(scene.sh + 3 * K * n, count, sh);
    out.visible = out.visible & all_finite<3 * K>(sh);
    const int bases = (scene.sh_degree + 1) * (scene.sh_degree + 1);
    for (int i = 0; i < 3; ++i) out.color[i] = F16(0.5f);
    for (int k = 0; k < bases; ++k)
        for (int i = 0; i < 3; ++i) out.color[i] = fma_(Y[k], sh[3 * k + i], out.color[i]);
    for (int i = 0; i < 3; ++i) {
        out.visible = out.visible & (abs_(out.color[i]) < F16(AV_COLOR_MAX));
        out.color[i] = max_(out.color[i], F16(0.0f));
    }
}

AV_OUTLINE Lanes project_lanes(const AvScene& scene, const Camera& cam, const Params& p, int64_t n, int count) {
    Lanes out;
    const bool antialiased = scene.flags & AV_ANTIALIASED;
    project_shape(cam, p.mean, p.quat, p.scale, antialiased, out.shape);
    const Shape<F16>& s = out.shape;
    out.visible = s.visible & p.finite;
    out.opacity = p.opacity * s.compensation;
    out.visible = out.visible & (out.opacity >= F16(AV_ALPHA_MIN));
    out.log2_opacity = log2_(select(out.visible, out.opacity, F16(1.0f)));
    out.extent2 = extent_squared(out.log2_opacity);
    out.extent_x = sqrt_(out.extent2 * s.a);
    out.extent_y = sqrt_(out.extent2 * s.c);
    out.visible = out.visible & (s.u + out.extent_x > F16(0.0f)) & (s.u - out.extent_x < F16(cam.width)) &
                  (s.v + out.extent_y > F16(0.0f)) & (s.v - out.extent_y < F16(cam.height));
    if (!bits(out.visible)) return out;
    out.inv_distance = view_direction(cam, p.mean, out.direction);
    switch (scene.sh_bases) {
        case 1: lanes_color<1>(scene, n, count, out); break;
        case 4: lanes_color<4>(scene, n, count, out); break;
        case 9: lanes_color<9>(scene, n, count, out); break;
        default: lanes_color<16>(scene, n, count, out); break;
    }
    return out;
}

AV_INLINE Camera scene_camera(const AvScene& scene, int64_t c) {
    return make_camera(scene.viewmats + 16 * c, scene.Ks + 9 * c, scene.width, scene.height, scene.near_plane, scene.eps2d);
}

// Tiles that the box touches: those that hold a pixel centre inside it.
AV_INLINE void set_tiles(Record& r, const Size& size, float extent_x, float extent_y) {
    const float far = 1e7f;
    const int px0 = (int)ceilf(max_(r.u - extent_x - 0.5f, -1.0f)), px1 = (int)floorf(min_(r.u + extent_x - 0.5f, far));
    const int py0 = (int)ceilf(max_(r.v - extent_y - 0.5f, -1.0f)), py1 = (int)floorf(min_(r.v + extent_y - 0.5f, far));
    const int x0 = px0 < 0 ? 0 : px0, y0 = py0 < 0 ? 0 : py0;
    const int x1 = px1 < size.width - 1 ? px1 : size.width - 1, y1 = py1 < size.height - 1 ? py1 : size.height - 1;
    r.x0 = r.y0 = r.x1 = r.y1 = 0;
    if (x0 > x1 || y0 > y1) return;
    r.x0 = (uint16_t)(x0 / AV_TILE), r.x1 = (uint16_t)(x1 / AV_TILE + 1);
    r.y0 = (uint16_t)(y0 / AV_TILE), r.y1 = (uint16_t)(y1 / AV_TILE + 1);
}

AV_INLINE int64_t slots_wanted(const Record& r) { return (int64_t)(r.x1 - r.x0) * (r.y1 - r.y0); }

// Projects one block of Gaussians into one camera; returns the number of slots it needs.
static int64_t project_block(const AvScene& scene, const Camera& cam, const Size& size, int64_t block, Record* records,
                             int32_t* radii) {
    int64_t slots = 0;
    const int64_t end = (block + 1) * BLOCK < size.N ? (block + 1) * BLOCK : size.N;
    for (int64_t n = block * BLOCK; n < end; n += 16) {
        const int count = end - n < 16 ? (int)(end - n) : 16;
        const Params p = load_params(scene, n, count);
        const Lanes lanes = project_lanes(scene, cam, p, n, count);
        const uint32_t visible = bits(lanes.visible) & ((1u << count) - 1);
        F16 rows[16];
        const Shape<F16>& s = lanes.shape;
        const F16 inv_det = F16(1.0f) / s.det;
        rows[0] = s.u, rows[1] = s.v;
        rows[2] = F16(-kHalfLog2e) * s.c * inv_det;
        rows[3] = F16(2.0f * kHalfLog2e) * s.b * inv_det;
        rows[4] = F16(-kHalfLog2e) * s.a * inv_det;
        rows[5] = lanes.log2_opacity;
        for (int i = 0; i < 3; ++i) rows[6 + i] = lanes.color[i];
        rows[9] = s.z, rows[10] = lanes.extent2;
        rows[11] = lanes.extent_x, rows[12] = lanes.extent_y;  // replaced by the tiles below
        rows[13] = rows[14] = rows[15] = F16(0.0f);
        if (visible) transpose(rows);
        for (int l = 0; l < count; ++l) {
            Record r;
            float ex = 0.0f, ey = 0.0f;
            if (visible >> l & 1) {
                store((float*)&r, rows[l]);
                memcpy(&ex, (const char*)&r + 44, 4), memcpy(&ey, (const char*)&r + 48, 4);
                set_tiles(r, size, ex, ey);
            } else {
                memset(&r, 0, sizeof r);
            }
            r.first = (uint32_t)slots;
            r.count = 0;
            slots += slots_wanted(r);
            records[n + l] = r;
            if (radii) {
                radii[2 * (n + l)] = (int32_t)min_(ceilf(ex), 1073741824.0f);
                radii[2 * (n + l) + 1] = (int32_t)min_(ceilf(ey), 1073741824.0f);
            }
        }
    }
    return slots;
}

// Gradients of one camera's projection of sixteen Gaussians, summed over cameras by the caller.
struct LanesGradient {
    F16 u, v, a, b, c;  // to the mean in pixels and to the conic
    F16 log_opacity;    // to the logarithm of the compensated opacity
    F16 color[3], z, weight;  // weight: Σ alpha·transmittance, a statistic
};

struct ParamsGradient {
    F16 mean[3], quat[4], scale[3], log_opacity;
    F16 sh[48];
};

AV_INLINE void clear(ParamsGradient& g, int sh_values) {
    const F16 zero = F16(0.0f);
    for (int i = 0; i < 3; ++i) g.mean[i] = g.scale[i] = zero;
    for (int i = 0; i < 4; ++i) g.quat[i] = zero;
    g.log_opacity = zero;
    for (int i = 0; i < sh_values; ++i) g.sh[i] = zero;
}

template <int K>
AV_OUTLINE void color_backward(const AvScene& scene, int64_t n, int count, M16 visible, const F16* direction, F16 inv_distance,
                              const F16* v_color_in, ParamsGradient& out) {
    F16 Y[16], v_Y[16], sh[3 * K], v_color[3], v_d[3] = {F16(0.0f), F16(0.0f), F16(0.0f)};
    const int bases = (scene.sh_degree + 1) * (scene.sh_degree + 1);
    sh_basis(scene.sh_degree, direction[0], direction[1], direction[2], Y);
    load_rows<3 * K>(scene.sh + 3 * K * n, count, sh);
    for (int i = 0; i < 3; ++i) {  // colours clamped at zero pass nothing on
        F16 color = F16(0.5f);
        for (int k = 0; k < bases; ++k) color = fma_(Y[k], sh[3 * k + i], color);
        v_color[i] = keep(visible & (color > F16(0.0f)), v_color_in[i]);
    }
    for (int k = 0; k < bases; ++k) {
        v_Y[k] = sh[3 * k] * v_color[0] + sh[3 * k + 1] * v_color[1] + sh[3 * k + 2] * v_color[2];
        for (int i = 0; i < 3; ++i) out.sh[3 * k + i] = fma_(Y[k], v_color[i], out.sh[3 * k + i]);
    }
    sh_basis_backward(scene.sh_degree, direction[0], direction[1], direction[2], v_Y, v_d[0], v_d[1], v_d[2]);
    F16 v_mean[3] = {F16(0.0f), F16(0.0f), F16(0.0f)};
    view_direction_backward(direction, inv_distance, v_d, v_mean);
    for (int i = 0; i < 3; ++i) out.mean[i] += keep(visible, v_mean[i]);
}

// Adds the gradient of one camera; `visible` lanes only.
AV_OUTLINE void lanes_backward(const AvScene& scene, const Camera& cam, const Params& p, int64_t n, int count, M16 visible,
                              const LanesGradient& g, ParamsGradient& out) {
    Shape<F16> s;
    const bool antialiased = scene.flags & AV_ANTIALIASED;
    project_shape(cam, p.mean, p.quat, p.scale, antialiased, s);
    F16 v_mean[3] = {F16(0.0f), F16(0.0f), F16(0.0f)}, v_quat[4], v_scale[3];
    const F16 v_comp = antialiased ? g.log_opacity / s.compensation : F16(0.0f);
    project_shape_backward(cam, p.quat, p.scale, antialiased, s, g.u, g.v, g.z, g.a, g.b, g.c, v_comp, v_mean, v_quat, v_scale);
    for (int i = 0; i < 3; ++i) out.mean[i] += keep(visible, v_mean[i]);
    for (int i = 0; i < 4; ++i) out.quat[i] += keep(visible, v_quat[i]);
    for (int i = 0; i < 3; ++i) out.scale[i] += keep(visible, v_scale[i]);
    out.log_opacity += keep(visible, g.log_opacity);
    F16 direction[3];
    const F16 inv_distance = view_direction(cam, p.mean, direction);
    for (int i = 0; i < 3; ++i) direction[i] = keep(visible, direction[i]);  // a culled mean may be anything
    switch (scene.sh_bases) {
        case 1: color_backward<1>(scene, n, count, visible, direction, inv_distance, g.color, out); break;
        case 4: color_backward<4>(scene, n, count, visible, direction, inv_distance, g.color, out); break;
        case 9: color_backward<9>(scene, n, count, visible, direction, inv_distance, g.color, out); break;
        default: color_backward<16>(scene, n, count, visible, direction, inv_distance, g.color, out); break;
    }
}

// Undoes the activations and writes sixteen Gaussians' gradients.
AV_OUTLINE void store_gradient(const AvScene& scene, const Params& p, ParamsGradient& g, int64_t n, int count, float* v_means,
                              float* v_quats, float* v_scales, float* v_opacities, float* v_sh) {
    F16 v_opacity = g.log_opacity / p.opacity;  // ∂ln(o)/∂o
    if (scene.flags & AV_LOGIT_OPACITIES) v_opacity = g.log_opacity * (F16(1.0f) - p.opacity);
    v_opacity = select(g.log_opacity == F16(0.0f), F16(0.0f), v_opacity);  // culled lanes may have an opacity of zero
    if (scene.flags & AV_LOG_SCALES)
        for (int i = 0; i < 3; ++i) g.scale[i] = select(g.scale[i] == F16(0.0f), F16(0.0f), g.scale[i] * p.scale[i]);
    store_rows<3>(v_means + 3 * n, count, g.mean);
    store_rows<4>(v_quats + 4 * n, count, g.quat);
    store_rows<3>(v_scales + 3 * n, count, g.scale);
    store_rows<1>(v_opacities + n, count, &v_opacity);
    if (!v_sh) return;
    switch (scene.sh_bases) {
        case 1: store_rows<3>(v_sh + 3 * n, count, g.sh); break;
        case 4: store_rows<12>(v_sh + 12 * n, count, g.sh); break;
        case 9: store_rows<27>(v_sh + 27 * n, count, g.sh); break;
        default: store_rows<48>(v_sh + 48 * n, count, g.sh); break;
    }
}

}  // namespace AV_NS
}  // namespace av
