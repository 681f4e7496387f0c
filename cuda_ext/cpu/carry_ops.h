// Blendshapes, triangles and penalties of Gaussians in one pass each way: corrections stay in registers, and the basis takes its step of
// Adam where its rows are read for the gradient to the weights.
#pragma once
#include "../include/abi.h"
#include "adam_ops.h"
#include "bind_ops.h"
#include "blend_ops.h"
#include "outer.h"

namespace av {
inline namespace AV_NS {

enum { CARRY_BLOCK = 256 };  // Gaussians per task, a multiple of 16: sums are taken per task, whoever runs it

struct CarryRoom {
    BindMesh mesh;
    float* delta;   // [N / 16, 10, 16] the corrections, as lanes
    float* sums;    // [blocks, K] parts of the gradient to the weights
    double* costs;  // [blocks]
};

AV_INLINE int64_t carry_blocks(int64_t N) { return (N + CARRY_BLOCK - 1) / CARRY_BLOCK; }

static int64_t carry_scratch(int64_t V, int64_t F, int64_t N, int32_t K) {
    return bind_scratch(V, F, N) + 64 + (N + 15) / 16 * 16 * BLEND_COLUMNS * (int64_t)sizeof(float) +
           carry_blocks(N) * (int64_t)(K * sizeof(float) + sizeof(double)) + 16;
}

static CarryRoom carry_room(const AvCarry& in) {
    CarryRoom room;
    room.mesh = bind_mesh(in.V, in.F, in.N, in.vertices, in.faces, in.face_ids, in.saved);
    room.delta = (float*)(((uintptr_t)(room.mesh.per_vertex + BIND_PARTS * in.V) + 63) / 64 * 64);
    room.costs = (double*)(room.delta + (in.N + 15) / 16 * 16 * BLEND_COLUMNS);
    room.sums = (float*)(room.costs + carry_blocks(in.N));
    return room;
}

AV_INLINE void carry_load(const AvCarry& in, const CarryRoom& room, int64_t n, int count, const F16* delta, BindLanes& lanes) {
    gather_eights((const float*)room.mesh.frames, in.face_ids + n, count, lanes.frame);
    load_rows<3>(in.in[0] + 3 * n, count, lanes.mean);
    load_rows<4>(in.in[1] + 4 * n, count, lanes.quat);
    load_rows<3>(in.in[2] + 3 * n, count, lanes.scale);
    for (int i = 0; i < 3; ++i) lanes.mean[i] += delta[i], lanes.scale[i] = exp_(lanes.scale[i]);
    for (int i = 0; i < 4; ++i) lanes.quat[i] += delta[3 + i];
}

template <int REGISTERS_USED>
static void carry_block(const AvCarry& in, const CarryRoom& room, const BlendWeights& weights, int64_t block) {
    const int64_t begin = block * CARRY_BLOCK, end = begin + CARRY_BLOCK < in.N ? begin + CARRY_BLOCK : in.N;
    const Penalties w = penalties_of(in.position_weight, in.scale_weight, in.opacity_weight, in.max_scale, in.N);
    double cost = 0, squares = 0;
    for (int64_t n = begin; n < end; n += 16) {
        const int count = end - n < 16 ? (int)(end - n) : 16;
        const M16 on = mask_from_bits(count == 16 ? 0xffffu : (1u << count) - 1);
        F16 delta[BLEND_COLUMNS];
        const float* basis = in.basis + n * BLEND_COLUMNS * in.K;
        blend_corrections<REGISTERS_USED>(basis, in.K, count, weights, delta);
        for (int i = 0; i < BLEND_COLUMNS; ++i) store(room.delta + BLEND_COLUMNS * n + 16 * i, delta[i]);
        BindLanes lanes;
        F16 mean[3], quat[4], scale[3];
        carry_load(in, room, n, count, delta, lanes);
        bind_lanes(lanes, mean, quat, scale);
        store_rows<3>(in.out[0] + 3 * n, count, mean);
        store_rows<4>(in.out[1] + 4 * n, count, quat);
        store_rows<3>(in.out[2] + 3 * n, count, scale);
        blend_colors(in.in[3], in.out[3], 3 * in.sh_bases, n, count, delta + 7);
        if (!in.cost) continue;
        F16 logit, reach, unused[7], square = F16(0.0f);
        load_rows<1>(in.logit_opacities + n, count, &logit);
        load_rows<1>(in.reach + n, count, &reach);
        cost += (double)sum(keep(on, penalty_lanes(w, lanes.mean, lanes.scale, logit, reach, unused, unused + 3, unused[6])));
        for (int i = 0; i < BLEND_COLUMNS; i += i == 2 ? 5 : 1) square = fma_(delta[i], delta[i], square);
        squares += (double)sum(keep(on, square));
    }
    if (in.cost) room.costs[block] = cost + (double)in.size_weight * squares / (3.0 * (double)in.N);
}

static int32_t carry_forward(const AvCarry* args) {
    const AvCarry& in = *args;
    const CarryRoom room = carry_room(in);
    const BlendWeights weights = blend_weights(in.weights, in.K);
    face_frames(room.mesh, in.launch.threads);
    parallel_for(in.launch.threads, carry_blocks(in.N), [&](int64_t block, int) {
        switch ((in.K + 15) / 16) {
            case 1: return carry_block<1>(in, room, weights, block);
            case 2: return carry_block<2>(in, room, weights, block);
            case 3: return carry_block<3>(in, room, weights, block);
            default: return carry_block<4>(in, room, weights, block);
        }
    });
    if (in.cost) {
        double total = 0;
        for (int64_t block = 0; block < carry_blocks(in.N); ++block) total += room.costs[block];
        in.cost[0] = (float)total;
    }
    return AV_OK;
}

// The gradient to the Gaussians [n, n + count) and, as rows of ten, to their corrections.
AV_INLINE void carry_lanes_backward(const AvCarryBackward& args, const CarryRoom& room, const Penalties& w, int64_t n, int count, float* d) {
    const AvCarry& in = args.forward;
    F16 delta[BLEND_COLUMNS], v_mean[3], v_quat[4], v_scale[3], rows[16], frame[8];
    for (int i = 0; i < BLEND_COLUMNS; ++i) delta[i] = load(room.delta + BLEND_COLUMNS * n + 16 * i);
    BindLanes lanes;
    carry_load(in, room, n, count, delta, lanes);
    load_rows<3>(args.v_out[0] + 3 * n, count, v_mean);
    load_rows<4>(args.v_out[1] + 4 * n, count, v_quat);
    load_rows<3>(args.v_out[2] + 3 * n, count, v_scale);
    bind_lanes_backward(lanes, v_mean, v_quat, v_scale, rows, rows + 3, args.v_vertices ? frame : nullptr);
    if (args.v_vertices) store_rows<8>((float*)(room.mesh.per_gaussian + n), count, frame);
    for (int i = 0; i < 3; ++i) v_scale[i] = v_scale[i] * lanes.scale[i];
    if (args.v_cost) {
        F16 logit, reach, pull[3], shrink[3], fade;
        const F16 v_cost = F16(args.v_cost[0]);
        load_rows<1>(in.logit_opacities + n, count, &logit);
        load_rows<1>(in.reach + n, count, &reach);
        penalty_lanes(w, lanes.mean, lanes.scale, logit, reach, pull, shrink, fade);
        for (int i = 0; i < 3; ++i) rows[i] = fma_(v_cost, pull[i], rows[i]), v_scale[i] = fma_(v_cost, shrink[i], v_scale[i]);
        fade = v_cost * fade;
        store_rows<1>(args.v_logit_opacities + n, count, &fade);
    }
    store_rows<3>(args.v_in[0] + 3 * n, count, rows);
    store_rows<4>(args.v_in[1] + 4 * n, count, rows + 3);
    store_rows<3>(args.v_in[2] + 3 * n, count, v_scale);
    F16 v_color[3];
    load_colors(args.v_out[3], 3 * in.sh_bases, n, count, v_color);
    const F16 v_square = F16(args.v_cost ? 2.0f * args.v_cost[0] * in.size_weight / (3.0f * (float)in.N) : 0.0f);
    for (int i = 0; i < 3; ++i) rows[i] = fma_(v_square, delta[i], rows[i]), rows[7 + i] = fma_(v_square, delta[7 + i], v_color[i]);
    store_rows<BLEND_COLUMNS>(d, count, rows);
}

static int32_t carry_backward(const AvCarryBackward* args) {
    const AvCarry& in = args->forward;
    const CarryRoom room = carry_room(in);
    const int threads = in.launch.threads;
    const Penalties w = penalties_of(in.position_weight, in.scale_weight, in.opacity_weight, in.max_scale, in.N);
    Outer outer;
    outer_tables(in.weights, in.K, outer);
    const AvAdamTensor* basis = args->move ? args->move->tensors : nullptr;
    AdamRates rates;
    AdamTable table;
    if (basis) rates = adam_rates(*args->move), adam_table(*basis, rates, table);
    const int64_t row = BLEND_COLUMNS * in.K;
    parallel_for(threads, carry_blocks(in.N), [&](int64_t block, int) {
        const int64_t begin = block * CARRY_BLOCK, end = begin + CARRY_BLOCK < in.N ? begin + CARRY_BLOCK : in.N, count = end - begin;
        alignas(64) float d[BLEND_COLUMNS * CARRY_BLOCK + OUTER_PAD];
        for (int64_t n = begin; n < end; n += 16)
            carry_lanes_backward(*args, room, w, n, end - n < 16 ? (int)(end - n) : 16, d + BLEND_COLUMNS * (n - begin));
        memset(d + BLEND_COLUMNS * count, 0, OUTER_PAD * sizeof(float));
        if (args->v_delta) memcpy(args->v_delta + BLEND_COLUMNS * begin, d, (size_t)(BLEND_COLUMNS * count) * sizeof(float));
        float* columns = room.sums + block * in.K;
        if (basis && basis->flags & AV_HALF_MOMENTS)
            adam_outer<Halves>(*basis, begin * row, count * row, d, outer, table, rates, columns);
        else if (basis)
            adam_outer<Floats>(*basis, begin * row, count * row, d, outer, table, rates, columns);
        else
            outer_sums(in.basis + begin * row, count * row, d, outer, columns);
    });
    for (int k = 0; k < in.K; ++k) {
        double total = 0;
        for (int64_t block = 0; block < carry_blocks(in.N); ++block) total += (double)room.sums[block * in.K + k];
        args->v_weights[k] = (float)total;
    }
    if (args->v_vertices) bind_to_vertices(room.mesh, args->v_vertices, threads);
    return AV_OK;
}

}  // namespace AV_NS
}  // namespace av
