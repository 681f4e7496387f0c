// The plain C interface of both libraries (CPU: cuda_ext/libavatars_cpu.so, CUDA: cuda_ext/libavatars_cuda.so).
//
// The caller allocates everything; the library receives pointers, sizes and, on CUDA, the current stream. Tensors are
// contiguous float32 unless said otherwise, row-major with the shapes given. Each function returns an AvStatus and
// never throws; av_error() describes the last failure of the calling thread. cuda_ext/abi/ mirrors these files field by field, and
// the sizes of the structures are compared when a library is opened.
//
// Workspaces are opaque bytes: `av_splat_sizes` says how many `saved` (forward → backward) and `scratch` (one call)
// bytes the library at hand wants for a number of Gaussian-tile instances (`capacity`). A forward that meets more
// instances than `capacity` writes the number that it needs to counters[0] and counters[1] = 1; the CPU then returns
// AV_OVERFLOW and writes nothing else; CUDA cannot know before the launch ends, so it drops instances and leaves the
// flag for the host to read when it likes.
#pragma once
#include "abi_common.h"
#include "abi_gaussians.h"
#include "abi_binding.h"
#include "abi_training.h"
#include "abi_meshes.h"
#include "abi_grids.h"
#include "abi_skin.h"
#include "abi_pictures.h"
#include "abi_volumes.h"
