// Rays through volumes: where they are sampled, and how samples add up. The reference repeats both in torch.
//
// March       Sample k of a ray reaches from t(k + jitter) to t(k + 1 + jitter), k = 0, 1, …, as long as its midpoint, the mean of the two, is
//             not beyond far; t(x) = near + x·step up to x = bend, and turn·2^(growth·(x - bend)) from there on, where steps are in proportion
//             to the distance (the cones of instant-ngp). t counts lengths of the direction. A sample is kept when its midpoint lies in an
//             occupied cell of the first grid that contains it. Level l spans the box scaled by 2^l about its centre (as in instant-ngp, Müller et al. 2022). Empty cells are skipped in
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

// t(x), and the x of a t.
AV_HD float distance_at(const AvMarch& in, float x) {
    return x <= in.bend ? in.near_plane + x * in.step : in.turn * exp2f((x - in.bend) * in.growth);
}
AV_HD float steps_to(const AvMarch& in, float t) {
    return t <= in.turn ? (t - in.near_plane) / in.step : in.bend + log2f(t / in.turn) / in.growth;
}
AV_HD float middle_at(const AvMarch& in, float x) {
    if (x + 1.0f <= in.bend) return in.near_plane + (x + 0.5f) * in.step;
    const float start = distance_at(in, x);
    return 0.5f * (start + (x > in.bend ? start * exp2f(in.growth) : distance_at(in, x + 1.0f)));
}

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

// Calls emit(k) for each kept sample from number `from` on, in order; k counts steps.
template <class Emit>
AV_HD void march_ray(const AvMarch& in, const Ray& ray, float from, Emit&& emit) {
    if (!ray.valid) return;
    // Of a step: strides end a little early, as the cell's border is only known up to rounding, and as the midpoint of a growing
    // step lies behind the middle of its numbers, by less than growth / 11.
    const float slack = 0.01f + 0.09f * in.growth;
    const float outer = (float)(1 << (in.levels - 1)), shift = ray.jitter + 0.5f;
    float enter = in.near_plane, leave = in.far_plane;
    for (int i = 0; i < 3; ++i) {
        const float low = in.box[i], high = in.box[3 + i], centre = 0.5f * (low + high), half = 0.5f * outer * (high - low);
        clip_axis(ray.origin[i], ray.direction[i], centre - half, centre + half, enter, leave);
    }
    if (leave < enter) return;
    const float last = steps_to(in, leave) - shift + slack;
    float k = max_(from, ceilf(steps_to(in, enter) - shift - slack));
    while (k <= last) {
        const float t = middle_at(in, k + ray.jitter);
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
        k = max_(k + 1.0f, ceilf(steps_to(in, exit) - shift - slack));
    }
}

// Marches a ray, notes its first AV_MARCH_RUNS runs of neighbouring samples (first number, length; length 0 ends them), and counts all.
AV_HD int64_t count_samples(const AvMarch& in, int64_t r) {
    int32_t* runs = in.runs + 2 * AV_MARCH_RUNS * r;
    int64_t count = 0;
    int32_t begin = 0, length = 0;
    int run = 0;
    march_ray(in, load_ray(in, r), 0.0f, [&](float k) {
        ++count;
        if ((int32_t)k != begin + length) {
            if (length > 0 && run < AV_MARCH_RUNS) runs[2 * run] = begin, runs[2 * run + 1] = length;
            run += length > 0, begin = (int32_t)k, length = 0;
        }
        ++length;
    });
    for (; run < AV_MARCH_RUNS; ++run, length = 0) {
        runs[2 * run] = begin, runs[2 * run + 1] = length;
        if (length == 0) break;
    }
    return count;
}

AV_HD void put_sample(const AvMarch& in, int64_t at, int64_t r, float jitter, float k) {
    in.ray_ids[at] = r;
    in.starts[at] = distance_at(in, k + jitter), in.ends[at] = distance_at(in, k + 1.0f + jitter);
}

// The samples of a ray behind its noted runs, which end before number `from`, to the places from `at` to `end`.
AV_HD void put_rest(const AvMarch& in, int64_t r, float from, int64_t at, int64_t end) {
    const Ray ray = load_ray(in, r);
    march_ray(in, ray, from, [&](float k) {
        if (at < end) put_sample(in, at++, r, ray.jitter, k);
    });
}

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
