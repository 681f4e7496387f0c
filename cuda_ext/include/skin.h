// The joints of a head: axis-angles → rest-to-posed transforms, and back. A few hundred operations on at most AV_SKIN_JOINTS joints, in
// double on every device: the vertices far from the origin multiply what is lost here.
//
// Local rotation R_j = exp([r_j]×) about the rest position c_j; parents come before their children, -1 is the root:
//   G_j = G_parent R_j,  t_j = G_parent (c_j - R_j c_j) + t_parent;  out: A_j = s·Q·G_j, b_j = s·Q·t_j + T,
// Q = exp([rotation]×), T = translation, s = scale; one more transform, A = s·Q and b = T, is the root's own.
#pragma once
#include "portable.h"

#define AV_SKIN_JOINTS 64  // most joints, the root not counted
#define AV_SKIN_GROUP 32   // vertices that share a list of shapes

namespace av {
inline namespace AV_NS {

// exp([r]×) = 1 + a K + b K², a = sin θ/θ, b = (1 - cos θ)/θ²; da and db are their derivatives by θ².
struct Turn {
    double R[9], K[9], KK[9], a, b, da, db;
};

AV_HD void mat_mul(const double* a, const double* b, double* out) {
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) out[3 * i + j] = a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j];
}
// out += aᵀ b, and out += a bᵀ
AV_HD void add_tmul(const double* a, const double* b, double* out) {
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) out[3 * i + j] += a[i] * b[j] + a[3 + i] * b[3 + j] + a[6 + i] * b[6 + j];
}
AV_HD void add_mult(const double* a, const double* b, double* out) {
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) out[3 * i + j] += a[3 * i] * b[3 * j] + a[3 * i + 1] * b[3 * j + 1] + a[3 * i + 2] * b[3 * j + 2];
}
AV_HD void mat_vec(const double* a, const double* v, double* out) {
    for (int i = 0; i < 3; ++i) out[i] = a[3 * i] * v[0] + a[3 * i + 1] * v[1] + a[3 * i + 2] * v[2];
}
AV_HD void tmat_vec(const double* a, const double* v, double* out) {
    for (int i = 0; i < 3; ++i) out[i] = a[i] * v[0] + a[3 + i] * v[1] + a[6 + i] * v[2];
}

AV_HD void turn_of(const double* r, Turn& t) {
    const double s = r[0] * r[0] + r[1] * r[1] + r[2] * r[2];
    if (s < 1e-6) {  // series: the closed forms of the derivatives lose all digits
        t.a = 1.0 - s / 6.0 + s * s / 120.0, t.b = 0.5 - s / 24.0 + s * s / 720.0;
        t.da = -1.0 / 6.0 + s / 60.0, t.db = -1.0 / 24.0 + s / 360.0;
    } else {
        const double angle = sqrt(s);
        t.a = sin(angle) / angle, t.b = (1.0 - cos(angle)) / s;
        t.da = (cos(angle) - t.a) / (2.0 * s), t.db = (0.5 * t.a - t.b) / s;
    }
    const double K[9] = {0, -r[2], r[1], r[2], 0, -r[0], -r[1], r[0], 0};
    for (int i = 0; i < 9; ++i) t.K[i] = K[i];
    mat_mul(K, K, t.KK);
    for (int i = 0; i < 9; ++i) t.R[i] = (i % 4 == 0 ? 1.0 : 0.0) + t.a * K[i] + t.b * t.KK[i];
}

// v_r (written) from v_R.
AV_HD void turn_backward(const Turn& t, const double* r, const double* v_R, double* v_r) {
    double v_K[9], both[9] = {}, v_a = 0, v_b = 0;
    add_mult(v_R, t.K, both);  // K² = K·K
    add_tmul(t.K, v_R, both);
    for (int i = 0; i < 9; ++i) {
        v_K[i] = t.a * v_R[i] + t.b * both[i];
        v_a += v_R[i] * t.K[i], v_b += v_R[i] * t.KK[i];
    }
    const double v_s = v_a * t.da + v_b * t.db;
    v_r[0] = v_K[7] - v_K[5] + 2.0 * r[0] * v_s;
    v_r[1] = v_K[2] - v_K[6] + 2.0 * r[1] * v_s;
    v_r[2] = v_K[3] - v_K[1] + 2.0 * r[2] * v_s;
}

// What the joints of one frame amount to.
struct Chain {
    Turn turns[AV_SKIN_JOINTS + 1];  // the last: the root's rotation
    double r[AV_SKIN_JOINTS + 1][3];
    double G[AV_SKIN_JOINTS][9], t[AV_SKIN_JOINTS][3], shift[AV_SKIN_JOINTS][3];
    double v_G[AV_SKIN_JOINTS][9], v_t[AV_SKIN_JOINTS][3];  // for the way back; here, since CUDA keeps a Chain in shared memory
};

// chain.r must hold the joints' axis-angles and, last, the root's.
AV_HD void chain_forward(Chain& c, int J, const int32_t* parents, const float* joints) {
    for (int j = 0; j <= J; ++j) turn_of(c.r[j], c.turns[j]);
    for (int j = 0; j < J; ++j) {
        const double at[3] = {joints[3 * j], joints[3 * j + 1], joints[3 * j + 2]};
        double moved[3];
        mat_vec(c.turns[j].R, at, moved);
        for (int i = 0; i < 3; ++i) c.shift[j][i] = at[i] - moved[i];
        const int p = parents[j];
        if (p < 0) {
            for (int i = 0; i < 9; ++i) c.G[j][i] = c.turns[j].R[i];
            for (int i = 0; i < 3; ++i) c.t[j][i] = c.shift[j][i];
        } else {
            mat_mul(c.G[p], c.turns[j].R, c.G[j]);
            mat_vec(c.G[p], c.shift[j], c.t[j]);
            for (int i = 0; i < 3; ++i) c.t[j][i] += c.t[p][i];
        }
    }
}

// Transform j of J + 1 as rows [3, 4].
AV_HD void chain_transform(const Chain& c, int J, int j, double scale, const float* translation, float* out) {
    const double* Q = c.turns[J].R;
    double A[9], b[3] = {0, 0, 0};
    if (j < J) {
        mat_mul(Q, c.G[j], A);
        mat_vec(Q, c.t[j], b);
    } else {
        for (int i = 0; i < 9; ++i) A[i] = Q[i];
    }
    for (int i = 0; i < 3; ++i) {
        for (int k = 0; k < 3; ++k) out[4 * i + k] = (float)(scale * A[3 * i + k]);
        out[4 * i + 3] = (float)(scale * b[i] + (double)translation[i]);
    }
}

// Gradients to the axis-angles (v_r [J + 1, 3], the root's last) and the translation from those to the transforms, v_out
// [J + 1, 3, 4]. v_features [9·J] or NULL: gradients to R_j - 1 that come from elsewhere.
AV_HD void chain_backward(Chain& c, int J, const int32_t* parents, const float* joints, double scale, const double* v_out,
                          const double* v_features, double (*v_r)[3], double* v_translation) {
    double v_Q[9] = {};
    double(*v_G)[9] = c.v_G;
    double(*v_t)[3] = c.v_t;
    const double* Q = c.turns[J].R;
    for (int i = 0; i < 3; ++i) v_translation[i] = 0;
    for (int j = 0; j <= J; ++j) {
        const double* v = v_out + 12 * j;
        double v_A[9], v_b[3];
        for (int i = 0; i < 3; ++i) {
            for (int k = 0; k < 3; ++k) v_A[3 * i + k] = scale * v[4 * i + k];
            v_b[i] = scale * v[4 * i + 3];
            v_translation[i] += v[4 * i + 3];
        }
        if (j == J) {
            for (int i = 0; i < 9; ++i) v_Q[i] += v_A[i];
            continue;
        }
        add_mult(v_A, c.G[j], v_Q);
        for (int i = 0; i < 3; ++i)
            for (int k = 0; k < 3; ++k) v_Q[3 * i + k] += v_b[i] * c.t[j][k];
        for (int i = 0; i < 9; ++i) v_G[j][i] = 0;
        add_tmul(Q, v_A, v_G[j]);
        tmat_vec(Q, v_b, v_t[j]);
    }
    turn_backward(c.turns[J], c.r[J], v_Q, v_r[J]);
    for (int j = J - 1; j >= 0; --j) {
        const int p = parents[j];
        double v_R[9] = {}, v_shift[3];
        if (p < 0) {
            for (int i = 0; i < 9; ++i) v_R[i] = v_G[j][i];
            for (int i = 0; i < 3; ++i) v_shift[i] = v_t[j][i];
        } else {
            add_tmul(c.G[p], v_G[j], v_R);
            add_mult(v_G[j], c.turns[j].R, v_G[p]);
            for (int i = 0; i < 3; ++i) {
                for (int k = 0; k < 3; ++k) v_G[p][3 * i + k] += v_t[j][i] * c.shift[j][k];
                v_t[p][i] += v_t[j][i];
            }
            tmat_vec(c.G[p], v_t[j], v_shift);
        }
        for (int i = 0; i < 3; ++i)
            for (int k = 0; k < 3; ++k) {
                v_R[3 * i + k] -= v_shift[i] * (double)joints[3 * j + k];
                if (v_features) v_R[3 * i + k] += v_features[9 * j + 3 * i + k];
            }
        turn_backward(c.turns[j], c.r[j], v_R, v_r[j]);
    }
}

}  // namespace AV_NS
}  // namespace av
