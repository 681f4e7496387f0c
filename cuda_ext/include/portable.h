// What lets one source serve scalars (CUDA, tests), doubles and 16-lane vectors (CPU): qualifiers and the few functions that C++
// does not overload. The mathematics in the other headers is written once, as templates on a number type T.
#pragma once
#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define AV_HD __host__ __device__ __forceinline__
#else
#define AV_HD inline __attribute__((always_inline))
#endif

// Each instruction set gets its own copy of everything below, so that no function compiled for a newer one is ever
// linked into an older one's path.
#ifndef AV_NS
#define AV_NS scalar
#endif

namespace av {
inline namespace AV_NS {

template <class T>
struct MaskOf {
    typedef bool type;
};

AV_HD float select(bool m, float a, float b) { return m ? a : b; }
AV_HD double select(bool m, double a, double b) { return m ? a : b; }
AV_HD float min_(float a, float b) { return a < b ? a : b; }  // b when a is NaN
AV_HD float max_(float a, float b) { return a > b ? a : b; }  // b when a is NaN
AV_HD double min_(double a, double b) { return a < b ? a : b; }
AV_HD double max_(double a, double b) { return a > b ? a : b; }
AV_HD float sqrt_(float a) { return sqrtf(a); }
AV_HD double sqrt_(double a) { return sqrt(a); }
AV_HD float exp2_(float a) { return exp2f(a); }
AV_HD double exp2_(double a) { return exp2(a); }
AV_HD float log2_(float a) { return log2f(a); }
AV_HD double log2_(double a) { return log2(a); }
AV_HD float abs_(float a) { return fabsf(a); }
AV_HD double abs_(double a) { return fabs(a); }
AV_HD float ceil_(float a) { return ceilf(a); }
AV_HD double ceil_(double a) { return ceil(a); }
// False for NaN and infinities, also under compilers told that these do not exist.
AV_HD bool finite_(float a) { return fabsf(a) <= 3.402823466e38f; }
AV_HD bool finite_(double a) { return fabs(a) <= 1.7976931348623157e308; }
// Rounded before anything is added to it, under compilers that would fuse the two as well: the same bits everywhere.
AV_HD double product(double a, double b) {
#if defined(__CUDA_ARCH__)
    return __dmul_rn(a, b);
#else
    double rounded = a * b;
    __asm__("" : "+m"(rounded));
    return rounded;
#endif
}

}  // namespace AV_NS
}  // namespace av
