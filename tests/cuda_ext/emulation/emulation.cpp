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
    if (kind != BLOCK) ++self->rounds;
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
    if (kind == SYNC) ++machine.syncs[warp];
    return true;
}

static uint32_t random_state = 1;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

// Runs the warps in random order and by random amounts, the lanes of a warp forwards or backwards: no order may matter.
static void run_block() {
    const int warps = (machine.count + 31) / 32;
    for (int i = 0; i < machine.count; ++i) {
        machine.threads[i]->rounds = 0;
        machine.threads[i]->kind = RUNNING;
    }
    std::vector<int> ready(warps);
    for (;;) {
        ready.resize(warps);
        for (int w = 0; w < warps; ++w) ready[w] = w;
        while (!ready.empty()) {
            const size_t pick = random_below((uint32_t)ready.size());
            const int first = ready[pick] * 32, last = std::min(first + 32, machine.count);
            bool go = true;
            for (uint32_t steps = 1 + random_below(40); go && steps; --steps) {
                const bool backwards = random_below(2);
                for (int i = 0; i < last - first; ++i) {
                    Thread* t = machine.threads[backwards ? last - 1 - i : first + i];
                    if (t->kind == RUNNING || (t->kind != BLOCK && t->kind != RETURNED)) resume(t);
                }
                go = release_warp(ready[pick]);
            }
            if (!go) ready.erase(ready.begin() + (long)pick);
        }
        int returned = 0;
        for (int i = 0; i < machine.count; ++i) returned += machine.threads[i]->kind == RETURNED;
        if (returned == machine.count) return;
        if (returned) stop("a barrier of the block after a thread has returned");
        ++machine.barriers;
        for (int i = 0; i < machine.count; ++i) machine.threads[i]->kind = RUNNING;
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
    machine.syncs.assign((count + 31) / 32, 0);
    ++machine.launches;
    machine.count = count;
    machine.block_size = block, machine.grid_size = grid;
    machine.body = std::move(body);
    if (const char* seed = getenv("AVATARS_EMULATION_SEED")) random_state = (uint32_t)atoi(seed) * 2654435761u + 1;
    const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    const uint64_t first = random_below((uint32_t)std::min<uint64_t>(blocks, 1u << 24));
    uint64_t stride = 1 + 2 * random_below(1000);
    while (std::__gcd(stride, blocks) != 1) ++stride;
    for (uint64_t i = 0; i < blocks; ++i) {
        const uint64_t b = (first + i * stride) % blocks;
        machine.block_index = dim3((unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y));
        run_block();
    }
}

}  // namespace emulation
