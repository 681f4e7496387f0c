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

// The oldest device that machine code is compiled for: CMakeLists.txt.
constexpr int OLDEST = 75;

static const char* unusable() {
    static thread_local char why[256];
    int driver = 0, runtime = 0, devices = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) return "no NVIDIA driver is loaded";
    if (driver / 1000 < runtime / 1000) {  // within a major version any driver will do
        snprintf(why, sizeof why, "the driver speaks CUDA %d.%d, the kernels were built with %d.%d: update the driver, or build with an older nvcc",
                 driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
        return why;
    }
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error != cudaSuccess) {
        cudaGetLastError();  // or the next call would report it
        snprintf(why, sizeof why, "CUDA says %s", cudaGetErrorString(error));
        return why;
    }
    int best = 0;
    for (int i = 0; i < devices; ++i) {
        int major = 0, minor = 0;
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i);
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, i);
        if (10 * major + minor > best) best = 10 * major + minor;
    }
    if (best >= OLDEST) return nullptr;
    snprintf(why, sizeof why, "the best of %d devices has compute capability %d.%d, the kernels need %d.%d", devices, best / 10, best % 10,
             OLDEST / 10, OLDEST % 10);
    return why;
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
    AV_SIZE(AvCarry)
    AV_SIZE(AvCarryBackward)
    AV_SIZE(AvHash)
    AV_SIZE(AvHashTables)
    AV_SIZE(AvSkin)
    AV_SIZE(AvCompose)
#undef AV_SIZE
    return -1;
}

const char* av_error(void) { return av::last_error; }
const char* av_unusable(void) { return av::unusable(); }

#ifndef AV_CUDA_TARGETS
#define AV_CUDA_TARGETS "host emulation"
#endif
const char* av_isa(void) { return AV_CUDA_TARGETS; }

}  // extern "C"
