// Finds data races in emulated kernels. The sources are compiled with -fsanitize=thread, which puts a call before each access to memory;
// races.cpp answers these calls in place of the sanitizer's own library, and knows CUDA's rules:
//
//   within a block   two threads are ordered by __syncthreads alone, lanes of a warp also by __syncwarp; shuffles and votes order nothing
//   between blocks   of one launch nothing is ordered
//
// Two accesses of different threads to the same four bytes that nothing orders, at least one of them a write and not both
// atomic, stop the program. Shared memory is static memory of the library; other addresses are global; stacks are each thread's own.
#pragma once
#include <stddef.h>

namespace emulation {

enum Access { READ, WRITE, ATOMIC };

void touch(const void* at, size_t bytes, Access access);

}  // namespace emulation
