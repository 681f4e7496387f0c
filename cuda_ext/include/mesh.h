// Gradients of a mesh's image: through barycentrics and depth inside of triangles, through coverage at silhouettes.
//
// Inside      A pixel ray r = (x, y, 1) sees e = r·P⁻¹, P the rows p = K·vertex; depth z = 1/Σe, barycentrics b = z·e. So
//             ∂L/∂P = -e ⊗ (P⁻¹ ∂L/∂e): per triangle the sum over pixels of ∂L/∂e ⊗ e is enough.
// Silhouettes An edge is a silhouette of the view when its triangles lie on one side of it (or it has only one). Steep ones are met by
//             the rows of pixel centres, flat ones by the columns. Where one passes between the centres of two neighbours, at the
//             fraction `extent` of the way from the neighbour that its surface covers, a box of one pixel around each centre says how
//             much each shows of the other: below ½ the covered one takes ½ - extent of its neighbour's colour, above ½ the
//             neighbour takes extent - ½ of the covered one's. It counts when the covered neighbour is the nearer of the two and
//             the edge is not behind what the other shows; of several, the one that reaches furthest. Coverage by the edge's line along one
//             axis is the analytic antialiasing of Wu (1991); differentiating it with respect to the edge follows Laine et al. (2020).
#pragma once
#include "coverage.h"

namespace av {
inline namespace AV_NS {

AV_HD void cross3(const double* a, const double* b, double* out) {
    out[0] = a[1] * b[2] - a[2] * b[1], out[1] = a[2] * b[0] - a[0] * b[2], out[2] = a[0] * b[1] - a[1] * b[0];
}
AV_HD double dot3(const double* a, const double* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// ∂L/∂e of a pixel from its barycentrics and depth.
AV_HD void edge_gradient(const float* b, float z, const float* v_b, float v_z, double* v_e) {
    const double along = (double)v_b[0] * b[0] + (double)v_b[1] * b[1] + (double)v_b[2] * b[2];
    for (int k = 0; k < 3; ++k) v_e[k] = z * (v_b[k] - along) - (double)z * z * v_z;
}

// -P⁻¹ M transposed: row i is the gradient to corner i's point, for M = Σ ∂L/∂e ⊗ e.
template <class M>
AV_HD void corner_gradients(const double P[3][3], const M* sum, double out[3][3]) {
    double adjugate[3][3];  // column k of the inverse, times the determinant
    for (int k = 0; k < 3; ++k) cross3(P[(k + 1) % 3], P[(k + 2) % 3], adjugate[k]);
    const double det = dot3(P[0], adjugate[0]);
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
            double total = 0;
            for (int k = 0; k < 3; ++k) total += adjugate[k][j] * sum[3 * k + i];
            out[i][j] = -total / det;
        }
    }
}

struct Silhouette {
    double a[3], b[3], line[3];  // points of both ends; line·(x, y, 1) = 0 along the edge
    int64_t edge;
    int first, end;       // rows (steep) or columns (flat) whose centres the edge meets
    int low, high;        // rows that it touches, with one to spare
    bool valid, steep, covers_first;  // covers_first: the surface lies towards the smaller coordinate
};

AV_HD int clamp_index(double x, int limit) { return x > 0 ? (x < limit ? (int)x : limit) : 0; }

AV_HD Silhouette find_silhouette(const AvAntialias& in, int64_t camera, int64_t edge) {
    Silhouette s;
    s.valid = false, s.edge = edge;
    const int64_t* corner = in.edges + 4 * edge;
    const float *vertices = in.vertices + 3 * camera * in.V, *K = in.Ks + 9 * camera;
    for (int i = 0; i < 4; ++i)
        if (corner[i] >= in.V || (corner[i] < 0 && i < 3)) return s;
    double opposite[3];
    to_pixels(K, vertices + 3 * corner[0], s.a), to_pixels(K, vertices + 3 * corner[1], s.b);
    to_pixels(K, vertices + 3 * corner[2], opposite);
    cross3(s.a, s.b, s.line);
    const double side = dot3(s.line, opposite);
    if (!finite_(side) || side == 0 || !(s.a[2] >= in.near_plane || s.b[2] >= in.near_plane)) return s;
    if (corner[3] >= 0) {
        to_pixels(K, vertices + 3 * corner[3], opposite);
        const double other = dot3(s.line, opposite);
        if (!finite_(other) || !((side > 0 && other > 0) || (side < 0 && other < 0))) return s;
    } else if (in.cull_back && side > 0) {
        return s;
    }
    double u[2], v[2];  // the part in front of the near plane
    for (int i = 0; i < 2; ++i) {
        const double *here = i ? s.b : s.a, *there = i ? s.a : s.b;
        const double t = here[2] >= in.near_plane ? 0 : (in.near_plane - here[2]) / (there[2] - here[2]);
        const double z = here[2] + t * (there[2] - here[2]);
        u[i] = (here[0] + t * (there[0] - here[0])) / z, v[i] = (here[1] + t * (there[1] - here[1])) / z;
    }
    if (!finite_(u[0]) || !finite_(u[1]) || !finite_(v[0]) || !finite_(v[1])) return s;
    s.steep = fabs(s.line[0]) >= fabs(s.line[1]);
    const double across = s.steep ? s.line[0] : s.line[1], *range = s.steep ? v : u;
    if (across == 0) return s;
    s.covers_first = (across > 0) != (side > 0);
    const double low = min_(range[0], range[1]), high = max_(range[0], range[1]);
    s.first = clamp_index(ceil(low - 0.5), s.steep ? in.height : in.width);
    s.end = clamp_index(ceil(high - 0.5), s.steep ? in.height : in.width);
    s.low = clamp_index(floor(min_(v[0], v[1])) - 1, in.height), s.high = clamp_index(ceil(max_(v[0], v[1])) + 2, in.height);
    s.valid = s.first < s.end;
    return s;
}

// Where a silhouette passes a row or column of centres: between the pixels `at` and `at` + 1 along the other axis.
struct Passage {
    double x, y, z;
    int at;
    float extent;
    bool inside;
};

AV_HD Passage pass_at(const AvAntialias& in, const Silhouette& s, int index) {
    Passage p;
    const double *l = s.line, centre = index + 0.5;
    p.x = s.steep ? -(l[1] * centre + l[2]) / l[0] : centre;
    p.y = s.steep ? centre : -(l[0] * centre + l[2]) / l[1];
    const double along = (s.steep ? p.x : p.y) - 0.5, low = floor(along);
    p.inside = low >= 0 && low + 1 < (s.steep ? in.width : in.height);
    p.at = p.inside ? (int)low : 0;
    p.extent = (float)(s.covers_first ? along - low : 1 - (along - low));
    const double ray[3] = {p.x, p.y, 1};
    double from_a[3], from_b[3];
    cross3(s.a, ray, from_a), cross3(s.b, ray, from_b);
    const double at_a = dot3(from_a, l), at_b = dot3(from_b, l);  // the point of the edge on the ray: where this mix is zero
    p.z = (at_a * s.b[2] - at_b * s.a[2]) / (at_a - at_b);
    return p;
}

AV_HD float depth_or_far(float z) { return z > 0.0f ? z : 3.4e38f; }

AV_HD bool shows(const Passage& p, const Silhouette& s, float first, float second) {
    const float covered = depth_or_far(s.covers_first ? first : second), other = depth_or_far(s.covers_first ? second : first);
    return p.inside && covered < other && p.z <= other;
}

// The extent in the high half orders the keys (it is not negative), the edge breaks ties.
AV_HD uint64_t key_of(float extent, int64_t edge) {
    union {
        float value;
        uint32_t bits;
    } pun;
    pun.value = extent;
    return (uint64_t)pun.bits << 32 | (uint32_t)(edge + 1);
}

// What one pair of neighbours exchanges.
struct Exchange {
    bool any, first_takes, covers_first;
    float amount, slope;  // of the amount along the extent
    int64_t edge;
};

AV_HD Exchange exchange_of(uint64_t key, float first, float second) {
    Exchange e;
    union {
        uint32_t bits;
        float value;
    } pun;
    pun.bits = (uint32_t)(key >> 32);
    e.any = key != 0, e.edge = (int64_t)(key & 0xffffffffu) - 1;
    e.covers_first = depth_or_far(first) < depth_or_far(second);
    const bool inner = pun.value < 0.5f;
    e.first_takes = e.covers_first == inner;
    e.slope = inner ? -1.0f : 1.0f, e.amount = e.slope * (pun.value - 0.5f);
    return e;
}

// Gradient to both ends from that to the extent at a pair; `index` is its row (steep) or column (flat).
AV_HD void silhouette_gradient(const AvAntialias& in, const Silhouette& s, int index, double v_extent, double* v_a, double* v_b) {
    const Passage p = pass_at(in, s, index);
    const double v_along = s.covers_first ? v_extent : -v_extent, scale = -v_along / (s.steep ? s.line[0] : s.line[1]);
    const double v_line[3] = {scale * p.x, scale * p.y, scale};
    cross3(s.b, v_line, v_a), cross3(v_line, s.a, v_b);
}

}  // namespace AV_NS
}  // namespace av
