// Rays through volumes: where they are sampled, and how samples add up. The reference repeats both in torch.
//
// March       The midpoints of a ray lie at t_k = near + (k + jitter + ½)·step, k = 0, 1, …, up to far; t counts lengths of the direction.
//             A sample [t_k - ½ step, t_k + ½ step] is kept when its midpoint lies in an occupied cell of the first grid that contains
//             it. Level l spans the box scaled by 2^l about its centre (as in instant-ngp, Müller et al. 2022). Empty cells are skipped in
//             one stride, which changes nothing but the cost; within rounding of a cell's border a midpoint may fall to either side.
//             Rays with a number that is not finite, or without direction, have no samples.
// Composite   τ_i = density_i·(end_i - start_i), held between 0 and AV_TAU_MAX (NaN counts as 0; no gradient outside);
//             T_i = exp(-Σ_{j<i} τ_j), w_i = T_i·(1 - exp(-τ_i)) while T_i ≥ stop and 0 from there on (Max 1995);
//             color = Σ w_i c_i + T·background, alpha = 1 - T = Σ w_i, depth = Σ w_i·½(start_i + end_i) / max(alpha, AV_DEPTH_ALPHA_MIN).
//             A value of a colour that is not finite counts as 0.
#pragma once
#include "abi_volumes.h"
#include "portable.h"
#include "semantics.h"

namespace av {
inline namespace AV_NS {

struct Ray {
    float origin[3], direction[3], jitter;
    float per_direction[3], per_box[3];  // 1 / direction, 1 / size of the box
    bool valid;
};

AV_HD Ray load_ray(const AvMarch& in, int64_t r) {
    Ray ray;
    float length = 0.0f;
    ray.valid = true;
    for (int i = 0; i < 3; ++i) {
        ray.origin[i] = in.origins[3 * r + i], ray.direction[i] = in.directions[3 * r + i];
        ray.valid = ray.valid && finite_(ray.origin[i]) && finite_(ray.direction[i]);
        length = max_(length, abs_(ray.direction[i]));
        ray.per_direction[i] = 1.0f / ray.direction[i];
        ray.per_box[i] = 1.0f / (in.box[3 + i] - in.box[i]);
    }
    ray.jitter = in.jitter ? in.jitter[r] : 0.0f;
    ray.valid = ray.valid && length > 0.0f && finite_(ray.jitter);
    return ray;
}

// The cell of a point: its level (-1: outside of all) and index along each axis.
struct Cell {
    int level, at[3];
};

AV_HD Cell find_cell(const AvMarch& in, const Ray& ray, float t) {
    Cell cell;
    float from_centre[3];
    for (int i = 0; i < 3; ++i) from_centre[i] = (ray.origin[i] + t * ray.direction[i] - in.box[i]) * ray.per_box[i] - 0.5f;
    float shrink = 1.0f;
    for (cell.level = 0; cell.level < in.levels; ++cell.level, shrink *= 0.5f) {
        bool inside = true;
        for (int i = 0; i < 3; ++i) {
            const float x = floorf((from_centre[i] * shrink + 0.5f) * (float)in.cells[i]);
            inside = inside && x >= 0.0f && x < (float)in.cells[i];
            cell.at[i] = inside ? (int)x : 0;
        }
        if (inside) return cell;
    }
    cell.level = -1;
    return cell;
}

AV_HD bool occupied(const AvMarch& in, const Cell& cell) {
    const int64_t row = ((int64_t)cell.level * in.cells[0] + cell.at[0]) * in.cells[1] + cell.at[1];
    return in.occupancy[row * in.cells[2] + cell.at[2]] != 0;
}

// Where a slab [low, high] along one axis is entered and left.
AV_HD void clip_axis(float origin, float direction, float low, float high, float& enter, float& leave) {
    if (direction == 0.0f) {
        if (!(origin >= low && origin <= high)) leave = -3.4e38f;
        return;
    }
    const float a = (low - origin) / direction, b = (high - origin) / direction;
    enter = max_(enter, min_(a, b)), leave = min_(leave, max_(a, b));
}

// Calls emit(k) for each kept sample, in order; k counts steps.
template <class Emit>
AV_HD void march_ray(const AvMarch& in, const Ray& ray, Emit&& emit) {
    if (!ray.valid) return;
    const float slack = 0.01f;  // of a step: strides end a little early, as the cell's border is only known up to rounding
    const float outer = (float)(1 << (in.levels - 1));
    const float per_step = 1.0f / in.step, shift = in.near_plane * per_step + ray.jitter + 0.5f;  // k = t·per_step - shift
    float enter = in.near_plane, leave = in.far_plane;
    for (int i = 0; i < 3; ++i) {
        const float low = in.box[i], high = in.box[3 + i], centre = 0.5f * (low + high), half = 0.5f * outer * (high - low);
        clip_axis(ray.origin[i], ray.direction[i], centre - half, centre + half, enter, leave);
    }
    const float last = leave * per_step - shift + slack;
    float k = max_(0.0f, ceilf(enter * per_step - shift - slack));
    while (k <= last) {
        const float t = in.near_plane + (k + ray.jitter + 0.5f) * in.step;
        if (t > in.far_plane) return;
        const Cell cell = find_cell(in, ray, t);
        if (cell.level < 0) {
            k += 1.0f;
            continue;
        }
        if (occupied(in, cell)) {
            emit(k);
            k += 1.0f;
            continue;
        }
        float exit = in.far_plane;
        const float grow = (float)(1 << cell.level);
        for (int i = 0; i < 3; ++i) {
            if (ray.direction[i] == 0.0f) continue;
            const float border = (float)(cell.at[i] + (ray.direction[i] > 0.0f)) / (float)in.cells[i];
            const float x = in.box[i] + (in.box[3 + i] - in.box[i]) * ((border - 0.5f) * grow + 0.5f);
            exit = min_(exit, (x - ray.origin[i]) * ray.per_direction[i]);
        }
        k = max_(k + 1.0f, ceilf(exit * per_step - shift - slack));
    }
}

AV_HD float sample_start(const AvMarch& in, const Ray& ray, float k) { return in.near_plane + (k + ray.jitter) * in.step; }

// Optical depth of one sample.
template <class T>
AV_HD T optical_depth(T density, T start, T end) {
    const T tau = density * (end - start);
    return min_(select(tau > T(0.0f), tau, T(0.0f)), T(AV_TAU_MAX));
}

// exp(-x) for x ≥ 0, and 1 - exp(-x) without the cancellation at small x.
template <class T>
AV_HD T fade(T x) {
    return exp2_(max_(x * T(-1.4426950409f), T(-126.0f)));
}
template <class T>
AV_HD T opacity_of(T tau) {
    const T series = tau * (T(1.0f) - tau * (T(0.5f) - tau * (T(0.16666667f) - tau * (T(0.041666667f) - tau * T(0.0083333333f)))));
    return select(tau < T(0.125f), series, T(1.0f) - fade(tau));
}

}  // namespace AV_NS
}  // namespace av
