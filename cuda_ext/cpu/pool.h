// One pool of threads for all operators. Workers spin briefly for the next job, offer their core to others for a while, then sleep:
// spinning for long collapses on a busy machine, sleeping at once costs a wake-up per operator. Each thread runs its own share of the
// tasks and then what others have left; no result may depend on who runs them.
#pragma once
#include <stdint.h>

namespace av {

typedef void (*Task)(void* context, int64_t index, int worker);

// Run task(context, i, worker) for i in [0, count) on at most `threads` threads, the caller among them (worker 0); returns when all
// are done. A second caller while the pool is busy, or a call from inside a task, runs alone.
void parallel(int threads, int64_t count, Task task, void* context);

template <class F>
inline void parallel_for(int threads, int64_t count, F&& body) {
    parallel(
        threads, count, [](void* context, int64_t index, int worker) { (*static_cast<F*>(context))(index, worker); },
        const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace av
