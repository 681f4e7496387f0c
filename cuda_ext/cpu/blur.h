// Blurs of pictures with a symmetric window, in an order of pixels that needs no shuffles.
//
// A row is cut into sixteen segments, one per lane: neighbouring pixels of a lane are neighbouring registers, so that a blur along
// the row slides through registers exactly like one down the rows; only the segments' ends are exchanged between lanes. A result costs one
// load, five additions and five multiply-adds, and processors do those side by side.
#pragma once
#include "../include/semantics.h"
#include "simd.h"

namespace av {
inline namespace AV_NS {

enum {
    BLUR_R = AV_SSIM_RADIUS,
    BLUR_TAPS = 2 * BLUR_R + 1,
    BLUR_ROWS = 8  // results of one way down the rows
};

// Relative to the tap in the middle, which then needs no multiplication: a blur along both axes multiplies a constant by `gain`.
struct BlurWindow {
    float w[BLUR_R + 1];  // from the middle outwards
    float gain;
};

AV_INLINE BlurWindow blur_window() {
    BlurWindow window;
    double sum = 1;
    window.w[0] = 1.0f;
    for (int i = 1; i <= BLUR_R; ++i) {
        const double w = exp(-0.5 * i * i / (AV_SSIM_SIGMA * AV_SSIM_SIGMA));
        window.w[i] = (float)w, sum += 2 * w;
    }
    window.gain = (float)(sum * sum);
    return window;
}

// `count` floats of a row become segments of `n`, register by register, and back; zero where the row has ended.
AV_INLINE void load_segments(const float* row, int64_t count, int64_t n, float* out) {
    for (int64_t j = 0; j < n; j += 16) {
        F16 r[16];
        for (int64_t l = 0; l < 16; ++l) {
            const int64_t at = l * n + j, left = count - at;
            r[l] = left >= 16 ? load(row + at) : left > 0 ? load_part(row + at, (int)left) : F16(0.0f);
        }
        transpose(r);
        for (int64_t i = 0; i < 16 && j + i < n; ++i) store(out + 16 * (j + i), r[i]);
    }
}
AV_INLINE void store_segments(float* row, int64_t count, int64_t n, const float* in) {
    for (int64_t j = 0; j < n; j += 16) {
        F16 r[16];
        for (int64_t i = 0; i < 16; ++i) r[i] = j + i < n ? load(in + 16 * (j + i)) : F16(0.0f);
        transpose(r);
        for (int64_t l = 0; l < 16; ++l) {
            const int64_t at = l * n + j, room = n - j < 16 ? n - j : 16, left = count - at < room ? count - at : room;
            if (left > 0) store_part(row + at, r[l], (int)left);
        }
    }
}

AV_INLINE NativeF tap_at(const float* p) {
    NativeF v;
    memcpy(&v, p, sizeof v);
    return v;
}
AV_INLINE void put_at(float* p, NativeF v) { memcpy(p, &v, sizeof v); }

// A product that is rounded before it is added to others. Left to the compiler, copies of one loop may choose differently what to round, and
// results would depend on the strip that a row is computed in.
AV_INLINE NativeF rounded(NativeF product) {
#if AV_ISA >= 512
    __asm__("" : "+v"(product));
#elif defined(__x86_64__)
    __asm__("" : "+x"(product));
#elif defined(__aarch64__)
    __asm__("" : "+w"(product));
#else
    __asm__("" : "+m"(product));
#endif
    return product;
}

// One result from a ring of registers, the oldest tap at `oldest`.
AV_INLINE NativeF blurred(const NativeF* taps, int oldest, const NativeF* w) {
    NativeF total = taps[(oldest + BLUR_R) % BLUR_TAPS];
#pragma GCC unroll 5
    for (int k = 1; k <= BLUR_R; ++k) total += w[k] * (taps[(oldest + BLUR_R - k) % BLUR_TAPS] + taps[(oldest + BLUR_R + k) % BLUR_TAPS]);
    return total;
}

// The registers before and after a segment are its neighbours', one lane up or down; black beyond the image. `p` as in tap_at.
#if AV_ISA >= 512
AV_INLINE NativeF tap_before(const float* p, int) { return (NativeF)lanes_up(load(p)).v; }
AV_INLINE NativeF tap_after(const float* p, int) { return (NativeF)lanes_down(load(p)).v; }
#else
AV_INLINE NativeF tap_before(const float* p, int lane) {
    NativeF v = tap_at(p - 1);
    if (lane == 0) v[0] = 0.0f;
    return v;
}
AV_INLINE NativeF tap_after(const float* p, int lane) {
    NativeF v = tap_at(p + 1);
    if (lane == 16 - AV_NATIVE) v[AV_NATIVE - 1] = 0.0f;
    return v;
}
#endif

// Blurs the `n` ≥ BLUR_R registers of a row along themselves. On machines of fewer lanes it reads one float before and after them.
AV_INLINE void blur_along(const float* row, float* out, int64_t n, const BlurWindow& window) {
    NativeF w[BLUR_R + 1], taps[BLUR_TAPS];
    for (int k = 1; k <= BLUR_R; ++k) w[k] = NativeF{} + window.w[k];
    for (int lane = 0; lane < 16; lane += AV_NATIVE) {
        const float* from = row + lane;
#pragma GCC unroll 5
        for (int k = 0; k < BLUR_R; ++k) taps[k] = tap_before(from + 16 * (n - BLUR_R + k), lane), taps[k + BLUR_R] = tap_at(from + 16 * k);
        for (int64_t i = 0; i < n; i += BLUR_TAPS) {
#pragma GCC unroll 11
            for (int k = 0; k < BLUR_TAPS; ++k) {  // register i + k: the oldest tap is at taps[k]
                if (i + k >= n) break;
                const int64_t next = i + k + BLUR_R;
                taps[(k + BLUR_TAPS - 1) % BLUR_TAPS] = next < n ? tap_at(from + 16 * next) : tap_after(from + 16 * (next - n), lane);
                put_at(out + lane + 16 * (i + k), blurred(taps, k, w));
            }
        }
    }
}

// Blurs one register's width down BLUR_ROWS rows; result k, at out + k · pitch, is centred on row k + BLUR_R. tap(row, lane) is what to blur.
template <class Tap>
AV_INLINE void blur_down(const Tap& tap, float* out, int64_t pitch, const BlurWindow& window) {
    NativeF w[BLUR_R + 1], taps[BLUR_TAPS];
    for (int k = 1; k <= BLUR_R; ++k) w[k] = NativeF{} + window.w[k];
    for (int lane = 0; lane < 16; lane += AV_NATIVE) {
#pragma GCC unroll 10
        for (int k = 0; k < BLUR_TAPS - 1; ++k) taps[k] = tap(k, lane);
#pragma GCC unroll 8
        for (int k = 0; k < BLUR_ROWS; ++k) {
            taps[(k + BLUR_TAPS - 1) % BLUR_TAPS] = tap(k + BLUR_TAPS - 1, lane);
            put_at(out + lane + k * pitch, blurred(taps, k % BLUR_TAPS, w));
        }
    }
}

}  // namespace AV_NS
}  // namespace av
