// The scheduler of the emulation: see emulation.h.
#include "emulation.h"

namespace emulation {

Machine machine;
Thread* current = nullptr;

void stop(const char* why) {
    fprintf(stderr, "CUDA emulation: %s (block %u,%u thread %u)\n", why, machine.block_index.x, machine.block_index.y,
            current ? current->index.x : 0u);
    abort();
}

void wait(Kind kind) {
    Thread* self = current;
    self->kind = kind;
    if (kind == BLOCK) {
        self->ticket = machine.block_done + 1;
    } else {
        self->ticket = ++self->rounds;
    }
    if (!_setjmp(self->context)) _longjmp(machine.scheduler, 1);
}

static void fiber_main() {
    for (;;) {
        machine.body();
        current->kind = RETURNED;
        if (!_setjmp(current->context)) _longjmp(machine.scheduler, 1);
    }
}

static void resume(Thread* thread) {
    current = thread;
    thread->kind = RUNNING;
    if (_setjmp(machine.scheduler)) {
        current = nullptr;
        return;
    }
    if (thread->started) _longjmp(thread->context, 1);
    thread->started = true;
    thread->stack.resize(128 * 1024);
    getcontext(&thread->first);
    thread->first.uc_stack.ss_sp = thread->stack.data();
    thread->first.uc_stack.ss_size = thread->stack.size();
    thread->first.uc_link = nullptr;
    makecontext(&thread->first, fiber_main, 0);
    setcontext(&thread->first);
}

// All lanes of the warp wait at the same collective: let them pass. False when some still run or have to wait for others.
static bool release_warp(int warp) {
    const int first = warp * 32, last = std::min(first + 32, machine.count);
    int returned = 0, waiting = 0;
    Kind kind = RUNNING;
    for (int i = first; i < last; ++i) {
        const Thread* t = machine.threads[i];
        if (t->kind == RETURNED) ++returned;
        else if (t->kind != BLOCK) {
            if (waiting++ && t->kind != kind) stop("lanes of a warp met at different collectives");
            kind = t->kind;
        }
    }
    if (!waiting) return false;
    if (returned) stop("a full-mask collective after a lane has returned");
    if (waiting < last - first) stop("part of a warp waits at a barrier of the block, part at a collective");
    return true;
}

static void run_block() {
    for (int i = 0; i < machine.count; ++i) {
        machine.threads[i]->rounds = 0;
        machine.threads[i]->kind = RUNNING;
    }
    const int warps = (machine.count + 31) / 32;
    bool backwards = false;
    for (;;) {
        for (int w = 0; w < warps; ++w) {  // each warp as far as it gets
            const int first = w * 32, last = std::min(first + 32, machine.count);
            bool go = machine.threads[first]->kind == RUNNING;
            while (go) {
                for (int i = 0; i < last - first; ++i) resume(machine.threads[backwards ? last - 1 - i : first + i]);
                backwards = !backwards;  // no order may matter
                // those that returned stay out of the next round
                go = release_warp(w);
            }
        }
        int returned = 0;
        for (int i = 0; i < machine.count; ++i) returned += machine.threads[i]->kind == RETURNED;
        if (returned == machine.count) return;
        for (int i = 0; i < machine.count; ++i) {
            if (machine.threads[i]->kind == RETURNED && returned && returned % 32) stop("a barrier that not all threads reach");
        }
        ++machine.block_done;
        for (int i = 0; i < machine.count; ++i) {
            Thread* t = machine.threads[i];
            if (t->kind == BLOCK) t->kind = RUNNING;
        }
    }
}

void run(dim3 grid, dim3 block, std::function<void()> body) {
    const int count = (int)(block.x * block.y * block.z);
    while ((int)machine.threads.size() < count) machine.threads.push_back(new Thread);
    for (int i = 0; i < count; ++i) {
        Thread* t = machine.threads[i];
        t->index = dim3(i % block.x, i / block.x % block.y, i / (block.x * block.y));
        t->lane = i % 32, t->warp = i / 32;
    }
    for (auto& slots : machine.slots) slots.assign((count + 31) / 32 * 32, 0);
    machine.count = count;
    machine.block_size = block, machine.grid_size = grid;
    machine.body = std::move(body);
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) {
                machine.block_index = dim3(x, y, z);
                run_block();
            }
        }
    }
}

}  // namespace emulation
