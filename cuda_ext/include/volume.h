// Rays through volumes: where they are sampled, and how samples add up. The reference repeats both in torch.
//
// March       Sample k of a ray reaches from t(k + jitter) to t(k + 1 + jitter), k = 0, 1, …, as long as its midpoint, the mean of the two, is
//             not beyond far; t(x) = near + x·step up to x = bend, and turn·2^(growth·(x - bend)) from there on, where steps are in proportion
//             to the distance (the cones of instant-ngp). t counts lengths of the direction. A sample is kept when its midpoint lies in an
//             occupied cell of the first grid that contains it. Level l spans the box scaled by 2^l about its centre (as in instant-ngp, Müller et al. 2022).
//             Rays walk from cell to cell (Amanatides & Woo 1987) and ask for numbers of samples only where occupied cells begin and end, which
//             changes nothing but the cost; within rounding of a cell's border a midpoint may fall to either side.
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
// The number of the first sample whose midpoint is not before t, or, with `beyond`, behind it.
AV_HD float number_at(const AvMarch& in, float jitter, float t, bool beyond) {
    float k = min_(max_(ceilf(steps_to(in, t) - jitter - 0.5f), 0.0f), 2.0f * AV_MARCH_STEPS);
    for (int i = 0; i < 4; ++i) {  // what rounding takes, and what the midpoint of a growing step lies behind the middle of its numbers
        const float before = middle_at(in, k - 1.0f + jitter);
        if (k < 1.0f || before < t || (beyond && before == t)) break;
        k -= 1.0f;
    }
    for (int i = 0; i < 4; ++i) {
        const float middle = middle_at(in, k + jitter);
        if (middle > t || (!beyond && middle == t)) break;
        k += 1.0f;
    }
    return k;
}

struct Ray {
    float origin[3], direction[3], jitter;
    float per_box[3];  // 1 / size of the box
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
        ray.per_box[i] = 1.0f / (in.box[3 + i] - in.box[i]);
    }
    ray.jitter = in.jitter ? in.jitter[r] : 0.0f;
    ray.valid = ray.valid && length > 0.0f && finite_(ray.jitter);
    return ray;
}

// A cell: its level and index along each axis.
struct Cell {
    int level, at[3];
};

// The index along an axis, not held to the grid, of the point at t in a grid that is 1/shrink times as large as the box.
AV_HD float index_at(const AvMarch& in, const Ray& ray, float t, int axis, float shrink) {
    const float from_centre = (ray.origin[axis] + t * ray.direction[axis] - in.box[axis]) * ray.per_box[axis] - 0.5f;
    return floorf((from_centre * shrink + 0.5f) * (float)in.cells[axis]);
}
AV_HD int held(float index, int low, int high) { return (int)min_(max_(index, (float)low), (float)high); }

// The cell of a point that lies in the outermost grid, but for rounding.
AV_HD Cell find_cell(const AvMarch& in, const Ray& ray, float t) {
    Cell cell;
    float shrink = 1.0f;
    for (cell.level = 0;; ++cell.level, shrink *= 0.5f) {
        bool inside = true;
        for (int i = 0; i < 3; ++i) {
            const float x = index_at(in, ray, t, i, shrink);
            inside = inside && x >= 0.0f && x < (float)in.cells[i];
            cell.at[i] = held(x, 0, in.cells[i] - 1);
        }
        if (inside || cell.level == in.levels - 1) return cell;
    }
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

// From a cell to its neighbour along a ray.
struct Walk {
    Cell cell;
    float first[3], width[3];  // where the ray passes border 0 of each axis, and from there to the next
    int axis;                  // that was crossed last; -1: the ray ends in this cell
};

AV_HD void set_borders(const AvMarch& in, const Ray& ray, Walk& walk) {
    const float grow = (float)(1 << walk.cell.level);
    for (int i = 0; i < 3; ++i) {
        const float size = in.box[3 + i] - in.box[i], per_direction = 1.0f / ray.direction[i];
        const bool moves = abs_(per_direction) <= 3.4e38f;
        walk.first[i] = moves ? (0.5f * (in.box[i] + in.box[3 + i] - size * grow) - ray.origin[i]) * per_direction : 3.4e38f;
        walk.width[i] = moves ? size * grow / (float)in.cells[i] * per_direction : 0.0f;
    }
}

// Goes on to the next cell; false at the end of the grids or of the ray. Returns where in t.
AV_HD bool next_cell(const AvMarch& in, const Ray& ray, Walk& walk, float& t) {
    Cell& cell = walk.cell;
    float exit = in.far_plane;
    walk.axis = -1;
    for (int i = 0; i < 3; ++i) {
        const float border = walk.first[i] + walk.width[i] * (float)(cell.at[i] + (walk.width[i] > 0.0f));
        if (border < exit) exit = border, walk.axis = i;
    }
    t = max_(t, exit);
    if (walk.axis < 0) return false;
    bool left = false, finer = cell.level > 0;
    for (int i = 0; i < 3; ++i) {
        if (i == walk.axis) cell.at[i] += walk.width[i] > 0.0f ? 1 : -1;
        left = left || cell.at[i] < 0 || cell.at[i] >= in.cells[i];
        finer = finer && cell.at[i] >= in.cells[i] / 4 && cell.at[i] < in.cells[i] - in.cells[i] / 4;
    }
    if (left) {
        if (++cell.level == in.levels) return false;
        for (int i = 0; i < 3; ++i) cell.at[i] = in.cells[i] / 4 + (cell.at[i] >> 1);
    } else if (finer) {  // into the grid that fills the middle of this one, whose cells are half as large
        --cell.level;
        const float shrink = 1.0f / (float)(1 << cell.level);
        for (int i = 0; i < 3; ++i) {
            const int low = 2 * (cell.at[i] - in.cells[i] / 4);
            cell.at[i] = i == walk.axis ? low + (walk.width[i] < 0.0f) : held(index_at(in, ray, t, i, shrink), low, low + 1);
        }
    }
    if (left || finer) set_borders(in, ray, walk);
    return true;
}

// Calls emit(k, n) for each stretch of n kept samples from number k on, in order; the next may follow without a gap.
template <class Emit>
AV_HD void march_ray(const AvMarch& in, const Ray& ray, Emit&& emit) {
    if (!ray.valid) return;
    const float outer = (float)(1 << (in.levels - 1));
    float enter = in.near_plane, leave = in.far_plane;
    for (int i = 0; i < 3; ++i) {
        const float low = in.box[i], high = in.box[3 + i], centre = 0.5f * (low + high), half = 0.5f * outer * (high - low);
        clip_axis(ray.origin[i], ray.direction[i], centre - half, centre + half, enter, leave);
    }
    if (leave < enter) return;
    Walk walk;
    walk.cell = find_cell(in, ray, enter);
    set_borders(in, ray, walk);
    bool filled = false;
    float t = enter, begin = 0.0f;
    for (bool more = true; more;) {
        const bool here = occupied(in, walk.cell);
        const float since = t;
        more = next_cell(in, ray, walk, t);
        if (here != filled) {
            const float k = number_at(in, ray.jitter, since, false);
            if (filled && k > begin) emit(begin, k - begin);
            begin = k, filled = here;
        }
        if (filled && !more) {
            const float k = number_at(in, ray.jitter, t, walk.axis < 0);
            if (k > begin) emit(begin, k - begin);
        }
    }
}

// Marches a ray, notes its first AV_MARCH_RUNS runs of neighbouring samples (first number, length; length 0 ends them), and counts all.
AV_HD int64_t count_samples(const AvMarch& in, int64_t r) {
    int32_t* runs = in.runs + 2 * AV_MARCH_RUNS * r;
    int64_t count = 0;
    int32_t begin = 0, length = 0;
    int run = 0;
    march_ray(in, load_ray(in, r), [&](float k, float n) {
        count += (int64_t)n;
        if ((int32_t)k != begin + length) {
            if (length > 0 && run < AV_MARCH_RUNS) runs[2 * run] = begin, runs[2 * run + 1] = length;
            run += length > 0, begin = (int32_t)k, length = 0;
        }
        length += (int32_t)n;
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

// Calls put(at, k, n) for the stretches of a ray behind its noted ones, which end before number `from`, for the places from `at` to `end`.
template <class Put>
AV_HD void put_rest(const AvMarch& in, int64_t r, float from, int64_t at, int64_t end, Put&& put) {
    march_ray(in, load_ray(in, r), [&](float k, float n) {
        if (k < from) return;
        const int64_t fits = end - at < (int64_t)n ? end - at : (int64_t)n;
        put(at, k, fits);
        at += fits;
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
