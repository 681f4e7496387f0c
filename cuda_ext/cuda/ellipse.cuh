// The ellipse of a Gaussian in the image as the CUDA rasteriser evaluates it, and its test against rectangles.
#pragma once
#include "../include/portable.h"
#include "../include/semantics.h"

namespace av {

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LOG2_ALPHA_MIN = -7.994353436858858f;  // log2(AV_ALPHA_MIN)

AV_HD float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));  // 1 ulp
    return y;
#else
    return 1.0f / x;
#endif
}

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

// Tests rectangles of pixel centres against {|W d|² <= limit}. Exact: the form is convex, so its least value over a
// rectangle lies at the centre or on an edge that faces it. Split by axis, so that a grid of rectangles shares the work. Every sum of
// products is an explicit fmaf: two kernels must come to the same answer, and which product a compiler fuses depends on what is around it.
struct EllipseTest {
    float s, r, e, limit, to_x, to_y;

    AV_HD EllipseTest(const Ellipse& w, float log2_opacity) : s(w.s), r(w.r), e(w.e) {
        // Slack for the rounding of the test: a rectangle is never lost, a few too many are kept.
        limit = fmaf(log2_opacity - LOG2_ALPHA_MIN, 1.0001f, 2e-3f);
        to_x = -r * reciprocal(s);
        to_y = -r * s * reciprocal(fmaf(r, r, e * e));
    }

    struct Span {  // one axis of a rectangle, relative to the centre of the ellipse
        float low, high, near;  // near: the coordinate closest to the centre
        float best;             // on the other axis, where the form is least at `near`, before clamping
    };
    AV_HD Span across(float mx, float x0, float x1) const {
        const float low = x0 - mx, high = x1 - mx, near = fminf(fmaxf(0.0f, low), high);
        return {low, high, near, to_y * near};
    }
    AV_HD Span down(float my, float y0, float y1) const {
        const float low = y0 - my, high = y1 - my, near = fminf(fmaxf(0.0f, low), high);
        return {low, high, near, to_x * near};
    }
    AV_HD bool touches(const Span& x, const Span& y) const {
        // on the vertical edge, then on the horizontal one; an edge that does not face the centre is no better
        const float ty = fminf(fmaxf(x.best, y.low), y.high), tx = fminf(fmaxf(y.best, x.low), x.high);
        const float p = fmaf(s, x.near, r * ty), q = e * ty, u = fmaf(s, tx, r * y.near), v = e * y.near;
        return fminf(fmaf(p, p, q * q), fmaf(u, u, v * v)) <= limit;
    }
};

}  // namespace av
