// The ellipse of a Gaussian in the image as the CUDA rasteriser evaluates it, and its test against rectangles.
#pragma once
#include "../include/portable.h"
#include "../include/semantics.h"

namespace av {

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LOG2_ALPHA_MIN = -7.994353436858858f;  // log2(AV_ALPHA_MIN)

// alpha = 2^(log2 opacity - |W d|²), W = [s r; 0 e], d = pixel - mean.
// Unlike a·dx² + 2b·dx·dy + c·dy² this does not cancel for long thin Gaussians (error linear, not quadratic, in d).
struct Ellipse {
    float s, r, e;
};

// From the covariance [a b; b c] and its determinant: (c/det)(dx - b/c·dy)² + dy²/c.
AV_HD Ellipse ellipse_of_cov(float b, float c, float det) {
    Ellipse w;
    w.s = sqrtf(0.5f * LOG2E * c / det);
    w.r = -b / c * w.s;
    w.e = sqrtf(0.5f * LOG2E / c);
    return w;
}

AV_HD Ellipse ellipse_of_conic(const float conic[3]) {
    const double a = conic[0], b = conic[1], c = conic[2], h = 0.5 * 1.4426950408889634;
    Ellipse w;
    w.s = (float)sqrt(h * a);
    w.r = (float)(b / a * sqrt(h * a));
    w.e = (float)sqrt(h * fmax(c - b * b / a, 0.0));
    return w;
}

// Tests rectangles of pixel centres against {|W d|² <= limit}.
struct EllipseTest {
    float s, r, e, limit, to_x, to_y;

    AV_HD EllipseTest(const Ellipse& w, float log2_opacity) : s(w.s), r(w.r), e(w.e) {
        // Slack for the rounding of the test: a rectangle is never lost, a few too many are kept.
        limit = (log2_opacity - LOG2_ALPHA_MIN) * 1.0001f + 2e-3f;
        to_x = -r / s;
        to_y = -r * s / (r * r + e * e);
    }

    // Does the ellipse about (mx, my) touch [x0, x1] × [y0, y1]? Exact: the form is convex, so its least value
    // over the rectangle lies at the centre or on an edge that faces it.
    AV_HD bool touches(float mx, float my, float x0, float x1, float y0, float y1) const {
        const float left = x0 - mx, right = x1 - mx, top = y0 - my, bottom = y1 - my;
        const float dx = fminf(fmaxf(0.0f, left), right), dy = fminf(fmaxf(0.0f, top), bottom);
        if (dx == 0.0f && dy == 0.0f) return true;
        // on the vertical edge, then on the horizontal one; an edge that does not face the centre is no better
        const float ty = fminf(fmaxf(to_y * dx, top), bottom), tx = fminf(fmaxf(to_x * dy, left), right);
        const float p = s * dx + r * ty, q = e * ty, u = s * tx + r * dy, v = e * dy;
        return fminf(p * p + q * q, u * u + v * v) <= limit;
    }
};

}  // namespace av
