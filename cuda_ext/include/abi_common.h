// What all calls share: the version, statuses, flags, and where to run. Part of abi.h.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AV_ABI_VERSION 1

typedef enum AvStatus { AV_OK = 0, AV_OVERFLOW = 1, AV_INVALID = 2, AV_DEVICE = 3, AV_UNSUPPORTED = 4 } AvStatus;

typedef enum AvFlags {
    AV_ANTIALIASED = 1,      // compensate the opacity for the low-pass filter
    AV_LOG_SCALES = 2,       // scales hold logarithms; gradients are to the logarithms
    AV_LOGIT_OPACITIES = 4,  // opacities hold logits; gradients are to the logits
    AV_FOR_GRADIENTS = 8,    // a backward pass follows; the same in both
} AvFlags;

// Where and how to run. CUDA: device and stream; CPU: number of threads (≥ 1; results do not depend on it).
typedef struct AvLaunch {
    void* stream;
    int32_t device;
    int32_t threads;
} AvLaunch;

int32_t av_abi_version(void);
int64_t av_abi_size(const char* structure);  // sizeof by name, -1 when unknown
const char* av_error(void);
const char* av_unusable(void);               // NULL, or why nothing can run here (CUDA: driver, devices)
const char* av_isa(void);                    // "base", "avx2", "avx512"; CUDA: the architectures compiled in

#ifdef __cplusplus
}
#endif
