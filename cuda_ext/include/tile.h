// Which tiles, and which 4×4 blocks of a tile, an ellipse touches.
#pragma once
#include "portable.h"
#include "semantics.h"

namespace av {
inline namespace AV_NS {

// Exact minimum of a·dx² + 2b·dx·dy + c·dy² over the rectangle dx ∈ [x0, x1], dy ∈ [y0, y1] (relative to the centre).
// Outside of the centre the minimum of a convex form lies on the one or two edges that face the centre; on an edge it is that of
// a parabola, clamped to the edge. `b_c` = b / c and `b_a` = b / a.
template <class T>
AV_HD T least_quadratic(T a, T b, T c, T b_a, T b_c, T x0, T x1, T y0, T y1) {
    const T zero = T(0.0f);
    const T dx = min_(max_(zero, x0), x1), dy = min_(max_(zero, y0), y1);  // nearest point of the rectangle per axis
    const T y_on = min_(max_(-(b_c * dx), y0), y1);                        // best on the vertical edge x = dx
    const T x_on = min_(max_(-(b_a * dy), x0), x1);                        // best on the horizontal edge y = dy
    const T vertical = a * dx * dx + (T(2.0f) * b * dx + c * y_on) * y_on;
    const T horizontal = c * dy * dy + (T(2.0f) * b * dy + a * x_on) * x_on;
    // When dx is 0 the centre's column crosses the rectangle and only the horizontal edge (or the inside) counts.
    const T only_h = select(dx == zero, horizontal, min_(vertical, horizontal));
    const T both = select(dy == zero, select(dx == zero, zero, vertical), only_h);
    return both;
}

}  // namespace AV_NS
}  // namespace av
