// Which triangle a pixel shows: the one statement of it. CUDA runs this as it stands, the CPU wherever single precision leaves a
// doubt, and reference/meshes.py says the same in torch; so all of them find the same triangle, on edges and corners too.
//
// Seen from   A pixel centre c sees a corner p = K·vertex = (u z, v z, z) at q = (p.x - c.x p.z, p.y - c.y p.z). This is rounded once per
//             corner and pixel, so that all triangles at a corner agree about where it lies.
// Inside      The edge functions e_k = q_{k+1} × q_{k+2} (homogeneous, Olano & Greer 1997: nothing needs clipping) have one sign, and that
//             sign is exact. Barycentrics are e / Σe, depth is z = Σ e p.z / Σe.
// Ties        A centre on an edge counts as if it lay an infinitesimal step further left and a much smaller one further up (Edelsbrunner &
//             Mücke 1990). Signs without rounding of points that are the same for all triangles leave nothing uncovered and nothing covered
//             twice: of the triangles around an edge or a corner that surround a centre, exactly one has it.
// Nearest     The least depth, rounded to single precision; of equal ones the first face.
// Dropped     Corners that are not finite or of which two coincide; what lies nearer than the near plane; with cull_back, positive e.
#pragma once
#include "abi_meshes.h"
#include "portable.h"

namespace av {
inline namespace AV_NS {

// K·v. Products of two floats are exact in double: fused or not, these are the same bits.
AV_HD void to_pixels(const float* K, const float* v, double* p) {
    for (int i = 0; i < 3; ++i) p[i] = (double)K[3 * i] * v[0] + (double)K[3 * i + 1] * v[1] + (double)K[3 * i + 2] * v[2];
}

// a·b - c·d with the sign that it has without rounding. Swapping the products changes the sign and nothing else.
AV_HD double difference(double a, double b, double c, double d) {
    const double p = product(a, b), q = product(c, d);
    if (p != q) return p - q;
    return fma(a, b, -p) - fma(c, d, -q);  // what the two lost to rounding
}

// The corners of a face in pixels; false when it can show nothing in this view.
AV_HD bool corners_of(const AvMesh& mesh, int64_t camera, int64_t face, double p[3][3]) {
    double size = 0;
    bool front = false;
    for (int i = 0; i < 3; ++i) {
        const int64_t corner = mesh.faces[3 * face + i];
        if ((uint64_t)corner >= (uint64_t)mesh.V) return false;
        to_pixels(mesh.Ks + 9 * camera, mesh.vertices + 3 * (camera * mesh.V + corner), p[i]);
        size += fabs(p[i][0]) + fabs(p[i][1]) + fabs(p[i][2]);
        front = front || p[i][2] >= mesh.near_plane;
    }
    if (!finite_(size) || !front) return false;
    double det = 0, doubt = 0;
    for (int i = 0; i < 3; ++i) {
        const double *a = p[(i + 1) % 3], *b = p[(i + 2) % 3];
        if (a[0] == b[0] && a[1] == b[1] && a[2] == b[2]) return false;
        if (!mesh.cull_back) continue;
        det += p[i][2] * (a[0] * b[1] - a[1] * b[0]);
        doubt += 1e-14 * fabs(p[i][2]) * (fabs(a[0] * b[1]) + fabs(a[1] * b[0]));
    }
    return !(det > doubt);  // turned away beyond doubt; `sees` decides about the others
}

struct PixelBox {
    int x0, y0, x1, y1;  // pixels [x0, x1) × [y0, y1)
};

// The pixels that may see a triangle: all where it reaches behind the near plane.
AV_HD PixelBox box_of(const AvMesh& mesh, const double p[3][3]) {
    double low[2] = {1e300, 1e300}, high[2] = {-1e300, -1e300};
    for (int i = 0; i < 3; ++i) {
        if (!(p[i][2] >= mesh.near_plane)) return {0, 0, mesh.width, mesh.height};
        for (int j = 0; j < 2; ++j) {
            const double at = p[i][j] / p[i][2];
            low[j] = min_(low[j], at), high[j] = max_(high[j], at);
        }
    }
    const double margin = 1e-3;  // `sees` decides; nothing that it lets in may be lost to rounding here
    PixelBox box;
    box.x0 = (int)min_(max_(ceil(low[0] - 0.5 - margin), 0.0), (double)mesh.width);
    box.y0 = (int)min_(max_(ceil(low[1] - 0.5 - margin), 0.0), (double)mesh.height);
    box.x1 = (int)max_(min_(floor(high[0] + 0.5 + margin), (double)mesh.width), box.x0);
    box.y1 = (int)max_(min_(floor(high[1] + 0.5 + margin), (double)mesh.height), box.y0);
    return box;
}

// Whether pixel (x, y) sees the triangle; then its barycentrics and depth there.
AV_HD bool sees(const AvMesh& mesh, const double p[3][3], int x, int y, double b[3], double* z) {
    double q[3][2], e[3];
    for (int i = 0; i < 3; ++i) {
        q[i][0] = p[i][0] - product(x + 0.5, p[i][2]);
        q[i][1] = p[i][1] - product(y + 0.5, p[i][2]);
    }
    bool positive = false;
    for (int k = 0; k < 3; ++k) {
        const int i = (k + 1) % 3, j = (k + 2) % 3;
        e[k] = difference(q[i][0], q[j][1], q[i][1], q[j][0]);
        double side = e[k];
        if (side == 0) side = difference(p[i][2], q[j][1], q[i][1], p[j][2]);  // its slope to the left
        if (side == 0) side = difference(q[i][0], p[j][2], p[i][2], q[j][0]);  // and upwards
        if (side == 0 || (k > 0 && positive != (side > 0))) return false;
        positive = side > 0;
    }
    if (mesh.cull_back && positive) return false;
    const double total = e[0] + e[1] + e[2];
    *z = (product(e[0], p[0][2]) + product(e[1], p[1][2]) + product(e[2], p[2][2])) / total;
    for (int k = 0; k < 3; ++k) b[k] = e[k] / total;
    return (float)*z >= mesh.near_plane;
}

}  // namespace AV_NS
}  // namespace av
