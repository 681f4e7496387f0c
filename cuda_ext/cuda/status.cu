// Version, sizes and the last error of the CUDA library.
#include <stdio.h>
#include <string.h>

#include "platform.cuh"

namespace av {

static thread_local char last_error[256] = "";

int32_t fail(int32_t status, const char* message) {
    snprintf(last_error, sizeof last_error, "%s", message);
    return status;
}

int32_t finish(const char* what) {
    const cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess) return AV_OK;
    snprintf(last_error, sizeof last_error, "%s: CUDA says %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
    return AV_DEVICE;
}

}  // namespace av

extern "C" {

int32_t av_abi_version(void) { return AV_ABI_VERSION; }

int64_t av_abi_size(const char* structure) {
#define AV_SIZE(name) \
    if (strcmp(structure, #name) == 0) return (int64_t)sizeof(name);
    AV_SIZE(AvLaunch)
    AV_SIZE(AvScene)
    AV_SIZE(AvSplatForward)
    AV_SIZE(AvSplatBackward)
    AV_SIZE(AvProjected)
    AV_SIZE(AvProject)
    AV_SIZE(AvProjectBackward)
    AV_SIZE(AvRasterize)
    AV_SIZE(AvRasterizeBackward)
    AV_SIZE(AvBind)
    AV_SIZE(AvBindBackward)
    AV_SIZE(AvSsim)
    AV_SIZE(AvSsimBackward)
    AV_SIZE(AvAdamTensor)
    AV_SIZE(AvAdam)
    AV_SIZE(AvMesh)
    AV_SIZE(AvMeshBackward)
    AV_SIZE(AvInterpolate)
    AV_SIZE(AvAntialias)
    AV_SIZE(AvMarch)
    AV_SIZE(AvComposite)
    AV_SIZE(AvCompositeBackward)
    AV_SIZE(AvBlend)
    AV_SIZE(AvPenalty)
    AV_SIZE(AvSkin)
    AV_SIZE(AvCompose)
    AV_SIZE(AvWindows)
    AV_SIZE(AvDistance)
#undef AV_SIZE
    return -1;
}

const char* av_error(void) { return av::last_error; }

#ifndef AV_CUDA_TARGETS
#define AV_CUDA_TARGETS "host emulation"
#endif
const char* av_isa(void) { return AV_CUDA_TARGETS; }

}  // extern "C"
