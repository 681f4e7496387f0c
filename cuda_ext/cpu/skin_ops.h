// The posed head: shapes and skinning, sixteen vertices at a time; the joints are in include/skin.h.
#pragma once
#include "../include/abi.h"
#include "../include/skin.h"
#include "pool.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

enum { SKIN_GROUP = AV_SKIN_GROUP, SKIN_TASK = 32 };  // groups per task: sums are taken per task, whoever runs it

AV_INLINE int64_t skin_groups(int64_t V) { return (V + SKIN_GROUP - 1) / SKIN_GROUP; }
AV_INLINE int64_t skin_tasks(int64_t V) { return (skin_groups(V) + SKIN_TASK - 1) / SKIN_TASK; }
AV_INLINE int64_t skin_sums(int64_t J, int64_t shapes) { return shapes + 12 * (J + 1); }  // vectors per task

// Coefficients [B, shapes], then [B, tasks, shapes + 12·(J + 1)] vectors of partial sums.
static int64_t skin_scratch(int64_t B, int64_t V, int64_t J, int64_t shapes) {
    return 128 + B * shapes * (int64_t)sizeof(float) + B * skin_tasks(V) * skin_sums(J, shapes) * 16 * (int64_t)sizeof(float);
}

// Axis-angles of the joints with those that expressions cause, and of the root; then the chain.
static void skin_chain(const AvSkin& in, int64_t b, Chain& chain) {
    const float* weight = in.expression + b * in.E;
    for (int64_t i = 0; i < 3 * in.J; ++i) {
        double r = (double)in.angles[3 * in.J * b + i];
        for (int64_t e = 0; e < in.E; ++e) r += (double)weight[e] * (double)in.turns[3 * in.J * e + i];
        chain.r[i / 3][i % 3] = r;
    }
    for (int i = 0; i < 3; ++i) chain.r[in.J][i] = (double)in.rotation[3 * b + i];
    chain_forward(chain, (int)in.J, in.parents, in.joints);
}

static void skin_group(const AvSkin& in, int64_t b, int64_t g, const float* coefficients) {
    F16 at[6];
    const float* rest = in.rest + 96 * g;
    for (int i = 0; i < 6; ++i) at[i] = load(rest + 16 * i);
    for (int64_t n = in.starts[g]; n < in.starts[g + 1]; ++n) {
        const float c = coefficients[in.indices[n]];
        if (c == 0.0f) continue;
        const float* p = in.offsets + 96 * n;
        for (int i = 0; i < 6; ++i) at[i] = fma_(F16(c), load(p + 16 * i), at[i]);
    }
    float* kept = in.shaped + 96 * (b * skin_groups(in.V) + g);
    for (int i = 0; i < 6; ++i) store(kept + 16 * i, at[i]);
    const float* weights = in.skin_weights + SKIN_GROUP * (in.J + 1) * g;
    for (int half = 0; half < 2; ++half) {
        const int64_t first = SKIN_GROUP * g + 16 * half;
        if (first >= in.V) break;
        F16 A[12];
        for (int i = 0; i < 12; ++i) A[i] = F16(0.0f);
        for (int64_t j = 0; j <= in.J; ++j) {
            const F16 w = load(weights + SKIN_GROUP * j + 16 * half);
            const float* T = in.transforms + 12 * (b * (in.J + 1) + j);
            for (int i = 0; i < 12; ++i) A[i] = fma_(w, F16(T[i]), A[i]);
        }
        F16 out[3];
        for (int i = 0; i < 3; ++i)
            out[i] = fma_(A[4 * i], at[half], fma_(A[4 * i + 1], at[2 + half], fma_(A[4 * i + 2], at[4 + half], A[4 * i + 3])));
        store_rows<3>(in.vertices + 3 * (b * in.V + first), in.V - first < 16 ? (int)(in.V - first) : 16, out);
    }
}

static int32_t skin_forward(const AvSkin* args) {
    const AvSkin& in = *args;
    float* coefficients = (float*)(((uintptr_t)in.scratch + 63) / 64 * 64);
    parallel_for(in.launch.threads, in.B, [&](int64_t b, int) {
        Chain chain;
        skin_chain(in, b, chain);
        for (int64_t j = 0; j <= in.J; ++j)
            chain_transform(chain, (int)in.J, (int)j, (double)in.scale, in.translation + 3 * b, in.transforms + 12 * (b * (in.J + 1) + j));
        float* c = coefficients + b * in.shapes;
        if (in.E > 0) memcpy(c, in.expression + b * in.E, (size_t)in.E * sizeof(float));
        for (int64_t i = in.E; i < in.shapes; ++i) {
            const int64_t at = i - in.E;
            c[i] = (float)(chain.turns[at / 9].R[at % 9] - (at % 9 % 4 == 0 ? 1.0 : 0.0));
        }
    });
    const int64_t tasks = skin_tasks(in.V), groups = skin_groups(in.V);
    parallel_for(in.launch.threads, in.B * tasks, [&](int64_t task, int) {
        const int64_t b = task / tasks, first = task % tasks * SKIN_TASK, end = first + SKIN_TASK < groups ? first + SKIN_TASK : groups;
        for (int64_t g = first; g < end; ++g) skin_group(in, b, g, coefficients + b * in.shapes);
    });
    return AV_OK;
}

// Adds what one group says to the vectors of sums: shapes, then the transforms.
static void skin_group_backward(const AvSkin& in, int64_t b, int64_t g, float* sums) {
    const float* kept = in.shaped + 96 * (b * skin_groups(in.V) + g);
    const float* weights = in.skin_weights + SKIN_GROUP * (in.J + 1) * g;
    float* transform_sums = sums + 16 * in.shapes;
    F16 v_at[6];
    for (int half = 0; half < 2; ++half) {
        const int64_t first = SKIN_GROUP * g + 16 * half;
        for (int i = 0; i < 3; ++i) v_at[2 * i + half] = F16(0.0f);
        if (first >= in.V) break;
        F16 v[3], at[3], A[9];
        load_rows<3>(in.v_vertices + 3 * (b * in.V + first), in.V - first < 16 ? (int)(in.V - first) : 16, v);
        for (int i = 0; i < 3; ++i) at[i] = load(kept + 32 * i + 16 * half);
        for (int i = 0; i < 9; ++i) A[i] = F16(0.0f);
        for (int64_t j = 0; j <= in.J; ++j) {
            const F16 w = load(weights + SKIN_GROUP * j + 16 * half);
            if (!bits(w > F16(0.0f)) && !bits(w < F16(0.0f))) continue;
            const float* T = in.transforms + 12 * (b * (in.J + 1) + j);
            float* sum = transform_sums + 192 * j;
            for (int i = 0; i < 3; ++i) {
                const F16 wv = w * v[i];
                for (int k = 0; k < 3; ++k) {
                    A[3 * i + k] = fma_(w, F16(T[4 * i + k]), A[3 * i + k]);
                    store(sum + 16 * (4 * i + k), fma_(wv, at[k], load(sum + 16 * (4 * i + k))));
                }
                store(sum + 16 * (4 * i + 3), load(sum + 16 * (4 * i + 3)) + wv);
            }
        }
        for (int k = 0; k < 3; ++k) v_at[2 * k + half] = fma_(A[k], v[0], fma_(A[3 + k], v[1], A[6 + k] * v[2]));
    }
    for (int64_t n = in.starts[g]; n < in.starts[g + 1]; ++n) {
        const float* p = in.offsets + 96 * n;
        float* sum = sums + 16 * in.indices[n];
        F16 total = load(sum);
        for (int i = 0; i < 6; ++i) total = fma_(v_at[i], load(p + 16 * i), total);
        store(sum, total);
    }
}

// From the tasks' sums of one pose to the codes and the root.
static void skin_pose_backward(const AvSkin& in, int64_t b, const float* sums, int64_t tasks) {
    const int64_t count = skin_sums(in.J, in.shapes), J = in.J, E = in.E;
    Chain chain;
    skin_chain(in, b, chain);
    const auto total = [&](int64_t i) {
        double all = 0;
        for (int64_t t = 0; t < tasks; ++t) {
            const float* lanes = sums + 16 * (count * t + i);
            for (int l = 0; l < 16; ++l) all += (double)lanes[l];
        }
        return all;
    };
    double v_transforms[12 * (AV_SKIN_JOINTS + 1)], v_features[9 * AV_SKIN_JOINTS], v_r[AV_SKIN_JOINTS + 1][3], v_translation[3];
    for (int64_t i = 0; i < 12 * (J + 1); ++i) v_transforms[i] = total(in.shapes + i);
    for (int64_t i = E; i < in.shapes; ++i) v_features[i - E] = total(i);
    chain_backward(chain, (int)J, in.parents, in.joints, (double)in.scale, v_transforms, in.shapes > E ? v_features : nullptr, v_r, v_translation);
    for (int64_t i = 0; i < 3 * J; ++i) in.v_angles[3 * J * b + i] = (float)v_r[i / 3][i % 3];
    for (int i = 0; i < 3; ++i) in.v_rotation[3 * b + i] = (float)v_r[J][i], in.v_translation[3 * b + i] = (float)v_translation[i];
    for (int64_t e = 0; e < E; ++e) {
        double v = total(e);
        for (int64_t i = 0; i < 3 * J; ++i) v += v_r[i / 3][i % 3] * (double)in.turns[3 * J * e + i];
        in.v_expression[b * E + e] = (float)v;
    }
}

static int32_t skin_backward(const AvSkin* args) {
    const AvSkin& in = *args;
    float* base = (float*)(((uintptr_t)in.scratch + 63) / 64 * 64);
    float* sums = base + (in.B * in.shapes + 15) / 16 * 16;
    const int64_t tasks = skin_tasks(in.V), groups = skin_groups(in.V), size = 16 * skin_sums(in.J, in.shapes);
    parallel_for(in.launch.threads, in.B * tasks, [&](int64_t task, int) {
        const int64_t b = task / tasks, first = task % tasks * SKIN_TASK, end = first + SKIN_TASK < groups ? first + SKIN_TASK : groups;
        float* mine = sums + size * task;
        memset(mine, 0, (size_t)size * sizeof(float));
        for (int64_t g = first; g < end; ++g) skin_group_backward(in, b, g, mine);
    });
    parallel_for(in.launch.threads, in.B, [&](int64_t b, int) { skin_pose_backward(in, b, sums + size * tasks * b, tasks); });
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
