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
    room.delta = (float*)(((uintptr_t)(room.mesh.corners + 9 * in.F) + 63) / 64 * 64);
    room.costs = (double*)(room.delta + (in.N + 15) / 16 * 16 * BLEND_COLUMNS);
    room.sums = (float*)(room.costs + carry_blocks(in.N));
    return room;
}

// The colours of Gaussians [n, n + count): the constant term with its correction, the others as they are.
AV_INLINE void carry_colors(const AvCarry& in, int64_t n, int count, const F16* delta) {
    const int width = 3 * in.sh_bases, all = count * width;
    const float* from = in.in[3] + n * width;
    float* to = in.out[3] + n * width;
    alignas(64) float correction[3][16];
    for (int i = 0; i < 3; ++i) store(correction[i], delta[i]);
    int at = 0;
    for (; at + 16 <= all; at += 16) store(to + at, load(from + at));
    if (at < all) store_part(to + at, load_part(from + at, all - at), all - at);
    for (int l = 0; l < count; ++l)
        for (int i = 0; i < 3; ++i) to[l * width + i] = from[l * width + i] + correction[i][l];
}

// Corrections of sixteen Gaussians, basis·weights: delta[c] has a lane for each; count of them are there.
template <int REGISTERS_USED>
AV_INLINE void carry_corrections(const float* basis, int K, int count, const BlendRow& weights, F16* delta) {
    alignas(64) float rows[16][16];
    for (int l = 0; l < 16; ++l)
        store(rows[l], l < count ? blend_row<REGISTERS_USED>(basis + (int64_t)l * BLEND_COLUMNS * K, K, weights) : F16(0.0f));
    F16 columns[16];
    load_rows<16>(rows[0], 16, columns);
    for (int c = 0; c < BLEND_COLUMNS; ++c) delta[c] = columns[c];
}

#if AV_ISA >= 512
// The same for sixteen weights of which twelve are there, three pieces of four to a row: whole registers in the order of memory. Three
// registers hold four rows, a a a b | b b c c | c d d d; their products are added up piece by piece to a b c d.
AV_INLINE void carry_corrections_twelve(const float* basis, const __m512* weights, F16* delta) {
    alignas(64) float pieces[5][8][16];  // four rows of the twenty of two Gaussians, times eight
    for (int pair = 0; pair < 8; ++pair) {
        for (int j = 0; j < 5; ++j, basis += 48) {
            const __m512 p = _mm512_mul_ps(_mm512_loadu_ps(basis), weights[0]), q = _mm512_mul_ps(_mm512_loadu_ps(basis + 16), weights[1]);
            const __m512 r = _mm512_mul_ps(_mm512_loadu_ps(basis + 32), weights[2]);
            const __m512 here = _mm512_mask_blend_ps(0xf000, _mm512_mask_blend_ps(0x000f, q, p), r);  // a b c d
            const __m512 next = _mm512_shuffle_f32x4(p, r, 0x4d);  // a1 b0 c2 d0
            const __m512 last = _mm512_mask_shuffle_f32x4(_mm512_shuffle_f32x4(p, r, 0x82), 0x0ff0, q, q, 0x30);  // a2 b1 c1 d1
            _mm512_store_ps(pieces[j][pair], here + next + last);
        }
    }
    __m512 sums[5][2];  // 128 bits i of [j][s]: row 4j + i of the pairs 4s to 4s + 3
    for (int j = 0; j < 5; ++j) {
        for (int s = 0; s < 2; ++s) {
            const float* from = pieces[j][4 * s];
            const __m512 a = _mm512_load_ps(from), b = _mm512_load_ps(from + 16), c = _mm512_load_ps(from + 32), d = _mm512_load_ps(from + 48);
            const __m512 ab = _mm512_mask_blend_ps(0xcccc, a, b) + _mm512_shuffle_ps(a, b, 0x4e);
            const __m512 cd = _mm512_mask_blend_ps(0xcccc, c, d) + _mm512_shuffle_ps(c, d, 0x4e);
            sums[j][s] = _mm512_shuffle_ps(ab, cd, 0x88) + _mm512_shuffle_ps(ab, cd, 0xdd);
        }
    }
    const __m512i both = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 0, 16, 1, 17, 2, 18, 3, 19);
    for (int c = 0; c < BLEND_COLUMNS; ++c) {
        const int first = c, second = BLEND_COLUMNS + c;  // rows of the two Gaussians of a pair
        const __m512i from = _mm512_add_epi32(both, _mm512_mask_blend_epi32(0xaaaa, _mm512_set1_epi32(first % 4 * 4), _mm512_set1_epi32(second % 4 * 4)));
        const __m512 low = _mm512_permutex2var_ps(sums[first / 4][0], from, sums[second / 4][0]);
        const __m512 high = _mm512_permutex2var_ps(sums[first / 4][1], from, sums[second / 4][1]);
        delta[c] = _mm512_mask_blend_ps(0xff00, low, high);
    }
}
#endif

AV_INLINE void carry_load(const AvCarry& in, const CarryRoom& room, int64_t n, int count, const F16* delta, BindLanes& lanes) {
    gather_eights((const float*)room.mesh.frames, in.face_ids + n, count, lanes.frame);
    load_rows<3>(in.in[0] + 3 * n, count, lanes.mean);
    load_rows<4>(in.in[1] + 4 * n, count, lanes.quat);
    load_rows<3>(in.in[2] + 3 * n, count, lanes.scale);
    for (int i = 0; i < 3; ++i) lanes.mean[i] += delta[i], lanes.scale[i] = exp_(lanes.scale[i]);
    for (int i = 0; i < 4; ++i) lanes.quat[i] += delta[3 + i];
}

template <int REGISTERS_USED>
static void carry_block(const AvCarry& in, const CarryRoom& room, const BlendRow& weights, int64_t block) {
    const int64_t begin = block * CARRY_BLOCK, end = begin + CARRY_BLOCK < in.N ? begin + CARRY_BLOCK : in.N;
    const Penalties w = penalties_of(in.position_weight, in.scale_weight, in.opacity_weight, in.max_scale, in.N);
#if AV_ISA >= 512
    const __m512i piece = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3);
    __m512 twelve[3];
    for (int i = 0; i < 3; ++i) {
        const __m512i shift = _mm512_add_epi32(piece, _mm512_set1_epi32(4 * i));  // modulo twelve
        const __mmask16 over = _mm512_cmpge_epi32_mask(shift, _mm512_set1_epi32(12));
        twelve[i] = _mm512_permutexvar_ps(_mm512_mask_sub_epi32(shift, over, shift, _mm512_set1_epi32(12)), weights.r[0].v);
    }
#endif
    double cost = 0, squares = 0;
    for (int64_t n = begin; n < end; n += 16) {
        const int count = end - n < 16 ? (int)(end - n) : 16;
        const M16 on = mask_from_bits(count == 16 ? 0xffffu : (1u << count) - 1);
        F16 delta[BLEND_COLUMNS];
        const float* basis = in.basis + n * BLEND_COLUMNS * in.K;
#if AV_ISA >= 512
        if (REGISTERS_USED == 1 && in.K == 12 && count == 16)
            carry_corrections_twelve(basis, twelve, delta);
        else
#endif
            carry_corrections<REGISTERS_USED>(basis, in.K, count, weights, delta);
        for (int i = 0; i < BLEND_COLUMNS; ++i) store(room.delta + BLEND_COLUMNS * n + 16 * i, delta[i]);
        BindLanes lanes;
        F16 mean[3], quat[4], scale[3];
        carry_load(in, room, n, count, delta, lanes);
        bind_lanes(lanes, mean, quat, scale);
        store_rows<3>(in.out[0] + 3 * n, count, mean);
        store_rows<4>(in.out[1] + 4 * n, count, quat);
        store_rows<3>(in.out[2] + 3 * n, count, scale);
        carry_colors(in, n, count, delta + 7);
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
    const BlendRow weights = load_blend_row(in.weights, in.K);
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
    const int64_t width = 3 * (int64_t)in.sh_bases;
    const float* color[16];
    bool more[16];
    for (int l = 0; l < 16; ++l) color[l] = args.v_out[3] + width * (n + (l < count ? l : 0)), more[l] = width > 3;
    gather_threes(color, more, v_color);
    const F16 v_square = F16(args.v_cost ? 2.0f * args.v_cost[0] * in.size_weight / (3.0f * (float)in.N) : 0.0f);
    for (int i = 0; i < 3; ++i) rows[i] = fma_(v_square, delta[i], rows[i]), rows[7 + i] = fma_(v_square, delta[7 + i], v_color[i]);
    store_rows<BLEND_COLUMNS>(d, count, rows);
}

// Σ d·basis per column.
template <int REGISTERS>
static void carry_sums(const float* basis, int64_t count, const float* d, const Outer& o, float* columns) {
    F16 sums[REGISTERS ? REGISTERS : OUTER_COLUMNS];
    for (F16& sum : sums) sum = F16(0.0f);
    outer_each<REGISTERS>(count, d, o, [&](int64_t i, int n, F16 lanes, int r) __attribute__((always_inline)) {
        sums[r] = fma_(lanes, n == 16 ? load(basis + i) : load_part(basis + i, n), sums[r]);
    });
    outer_columns(sums, o, columns);
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
        else if (outer.registers == 3)
            carry_sums<3>(in.basis + begin * row, count * row, d, outer, columns);
        else
            carry_sums<0>(in.basis + begin * row, count * row, d, outer, columns);
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
