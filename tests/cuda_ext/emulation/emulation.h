// CUDA's device language for g++, so that tests can run the kernels without a GPU. Test-only, and slow.
//
// Blocks run one after the other; the threads of a block are fibers that run until they meet a collective (a barrier, a shuffle, a
// vote) and go on once all others have arrived; who runs when is random (AVATARS_EMULATION_SEED), so that a missing barrier shows. Misuse that a GPU forgives or answers with garbage stops the program: lanes that
// meet at different collectives, a full-mask collective after a lane has returned, a barrier that not all can reach.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "races.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define AV_SHARED static  // one block at a time
#define AV_UNWATCHED __attribute__((no_sanitize_thread))  // machinery of the emulation, which is no access of a kernel

using std::max;
using std::min;

struct float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct int2 { int x, y; };
struct uint2 { unsigned x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct ushort4 { unsigned short x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline ushort4 make_ushort4(unsigned short x, unsigned short y, unsigned short z, unsigned short w) { return {x, y, z, w}; }

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) { return error == 100 ? "no CUDA-capable device is detected" : ""; }
inline const char* cudaGetErrorName(cudaError_t) { return ""; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };

// The machine that is played: AVATARS_EMULATION_DRIVER (as CUDA writes versions), _DEVICES and _CAPABILITY (10 · major + minor).
inline int played(const char* name, int otherwise) {
    const char* value = getenv(name);
    return value ? atoi(value) : otherwise;
}
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = played("AVATARS_EMULATION_DRIVER", 13000), cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = played("AVATARS_EMULATION_DEVICES", 1), *count ? cudaSuccess : 100; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    const int capability = played("AVATARS_EMULATION_CAPABILITY", 90);
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? capability / 10 : capability % 10;
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }

namespace emulation {

enum Kind { RUNNING, BLOCK, SYNC, SHUFFLE, VOTE, RETURNED };

struct Thread {
    dim3 index;
    int lane, warp;
    Kind kind = RETURNED;
    uint64_t rounds = 0;   // warp collectives passed
    jmp_buf context;
    ucontext_t first;
    std::vector<char> stack;
    bool started = false;
};

struct Machine {
    std::vector<Thread*> threads;
    std::vector<uint64_t> slots[2];        // exchanged values, by parity of the round
    int count = 0;                         // threads of the block
    dim3 block_index, block_size, grid_size;
    uint32_t launches = 0, barriers = 0;   // kernels started; __syncthreads passed by the block
    std::vector<uint32_t> syncs;           // __syncwarp passed, by warp
    std::function<void()> body;
    jmp_buf scheduler;
};

extern Machine machine;
extern Thread* current;

[[noreturn]] void stop(const char* why);
void wait(Kind kind);
void run(dim3 grid, dim3 block, std::function<void()> body);

// Hands each lane all lanes' values.
template <class T>
AV_UNWATCHED inline T exchange(Kind kind, T value, int source, unsigned mask) {
    static_assert(sizeof(T) <= 8, "");
    if (mask != 0xffffffffu) stop("a collective without the full mask");
    const int parity = current->rounds & 1;
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    machine.slots[parity][current->warp * 32 + current->lane] = bits;
    wait(kind);
    bits = machine.slots[parity][current->warp * 32 + (source & 31)];
    memcpy(&value, &bits, sizeof(T));
    return value;
}

AV_UNWATCHED inline unsigned gather(bool value, unsigned mask) {
    const int parity = current->rounds & 1, warp = current->warp * 32;
    exchange<uint32_t>(VOTE, value, 0, mask);
    unsigned bits = 0;
    for (int i = 0; i < 32 && warp + i < machine.count; ++i) bits |= (unsigned)machine.slots[parity][warp + i] << i;
    return bits;
}

}  // namespace emulation

inline cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
    if (!at || !bytes) emulation::stop("a memset of nothing");
    memset(at, value, bytes);
    return cudaSuccess;
}

namespace emulation {
AV_UNWATCHED inline dim3 here() { return current->index; }
AV_UNWATCHED inline dim3 block() { return machine.block_index; }
AV_UNWATCHED inline dim3 block_size() { return machine.block_size; }
AV_UNWATCHED inline dim3 grid_size() { return machine.grid_size; }
}  // namespace emulation

#define threadIdx (::emulation::here())
#define blockIdx (::emulation::block())
#define blockDim (::emulation::block_size())
#define gridDim (::emulation::grid_size())

inline void __syncthreads() { emulation::wait(emulation::BLOCK); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    if (mask != 0xffffffffu) emulation::stop("a collective without the full mask");
    emulation::wait(emulation::SYNC);
}
AV_UNWATCHED inline int __syncthreads_count(int value) {
    static int sum;
    __syncthreads();
    sum = 0;
    __syncthreads();
    sum += value != 0;
    __syncthreads();
    return sum;
}
inline int __syncthreads_and(int value) { return __syncthreads_count(!value) == 0; }
inline int __syncthreads_or(int value) { return __syncthreads_count(value) != 0; }
inline unsigned __ballot_sync(unsigned mask, int value) { return emulation::gather(value != 0, mask); }
inline int __any_sync(unsigned mask, int value) { return __ballot_sync(mask, value) != 0; }
inline int __all_sync(unsigned mask, int value) { return __ballot_sync(mask, !value) == 0; }
template <class T>
AV_UNWATCHED inline T __shfl_sync(unsigned mask, T value, int source) {
    return emulation::exchange(emulation::SHUFFLE, value, source, mask);
}
template <class T>
AV_UNWATCHED inline T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return __shfl_sync(mask, value, emulation::current->lane ^ bits);
}
template <class T>
AV_UNWATCHED inline T __shfl_up_sync(unsigned mask, T value, int distance) {
    const int lane = emulation::current->lane;
    return __shfl_sync(mask, value, lane >= distance ? lane - distance : lane);
}
template <class T>
AV_UNWATCHED inline T __shfl_down_sync(unsigned mask, T value, int distance) {
    const int lane = emulation::current->lane;
    return __shfl_sync(mask, value, lane + distance < 32 ? lane + distance : lane);
}

template <class T, class U>
AV_UNWATCHED inline T atomicAdd(T* at, U value) {
    emulation::touch(at, sizeof(T), emulation::ATOMIC);
    const T before = *at;
    *at = before + (T)value;
    return before;
}
template <class T>
AV_UNWATCHED inline T atomicMin(T* at, T value) {
    emulation::touch(at, sizeof(T), emulation::ATOMIC);
    const T before = *at;
    *at = std::min(before, value);
    return before;
}
template <class T>
AV_UNWATCHED inline T atomicMax(T* at, T value) {
    emulation::touch(at, sizeof(T), emulation::ATOMIC);
    const T before = *at;
    *at = std::max(before, value);
    return before;
}
template <class T>
inline T __ldg(const T* at) {
    return *at;
}

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline int __ffs(unsigned x) { return __builtin_ffs((int)x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }

namespace av {
template <class... Parameters, class... Arguments>
inline void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t, Arguments... arguments) {
    static_assert((0 + ... + sizeof(Parameters)) <= 4096, "more than 4 KiB of arguments");
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) emulation::stop("a grid that is too large");
    if (block.x * block.y * block.z > 1024) emulation::stop("a block that is too large");
    emulation::run(grid, block, [&] { kernel(static_cast<Parameters>(arguments)...); });
}
}  // namespace av
