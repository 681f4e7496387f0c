// What every kernel file includes: CUDA, or in tests its emulation on the host (tests/cuda_ext/emulation), which gives the same names
// to g++ so that the kernels run, block by block, on a machine without a GPU.
#pragma once
#include <stdint.h>

#ifdef AV_EMULATE
#include "emulation.h"
#else
#include <cuda_runtime.h>
#define AV_SHARED __shared__

namespace av {

// Starts a kernel; the error, if any, is found by cudaGetLastError at the end of the entry point.
template <class... Parameters, class... Arguments>
inline void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream, Arguments... arguments) {
    static_assert((0 + ... + sizeof(Parameters)) <= 4096, "more than 4 KiB of arguments");
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    kernel<<<grid, block, 0, stream>>>(static_cast<Parameters>(arguments)...);
}

}  // namespace av
#endif

#include "../include/abi.h"
#include "../include/semantics.h"

namespace av {

constexpr unsigned FULL = 0xffffffffu;

// Zeroes bytes; none at all is no call, which CUDA may refuse.
inline void clear(void* at, int64_t bytes, cudaStream_t stream) {
    if (bytes > 0) cudaMemsetAsync(at, 0, (size_t)bytes, stream);
}

inline unsigned blocks_for(int64_t count, int64_t per_block) { return (unsigned)((count + per_block - 1) / per_block); }

// Workspaces are cut into arrays aligned to 256 bytes; without a base this only measures.
struct Arena {
    char* base;
    int64_t used = 0;

    explicit Arena(void* memory) : base(static_cast<char*>(memory)) {}

    template <class T>
    T* take(int64_t count) {
        T* here = base ? reinterpret_cast<T*>(base + used) : nullptr;
        used += (count * (int64_t)sizeof(T) + 255) / 256 * 256;
        return here;
    }
};

int32_t fail(int32_t status, const char* message);  // status.cu: remembers the message for av_error()
int32_t finish(const char* what);                   // status.cu: AV_OK, or AV_DEVICE with CUDA's own words

// Makes the launch's device current for the length of a call.
class OnDevice {
public:
    explicit OnDevice(const AvLaunch& launch) {
        cudaGetDevice(&previous_);
        if (previous_ != launch.device) cudaSetDevice(launch.device);
        switched_ = previous_ != launch.device;
    }
    ~OnDevice() {
        if (switched_) cudaSetDevice(previous_);
    }
    OnDevice(const OnDevice&) = delete;

private:
    int previous_ = 0;
    bool switched_ = false;
};

inline cudaStream_t stream_of(const AvLaunch& launch) { return static_cast<cudaStream_t>(launch.stream); }

}  // namespace av
