#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace av {
namespace {

constexpr int kMaxThreads = 64;
constexpr int kSpins = 2000;   // some 20–60 µs of pauses: longer than the gaps inside an operator, shorter than a time slice
constexpr int kYields = 4000;  // some 1.5 ms more on an idle machine: the gaps between operators, Python's included; a busy one runs others meanwhile

inline void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// The tasks that one thread starts with. Neighbouring tasks touch neighbouring memory, and the same ones in the next stage: a thread that
// goes through its own share finds it in its caches. Whoever is done goes on with the others' shares.
struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
};

// Waits for a moment without sleeping, which costs both sides 20 to 40 µs. False when it is time to sleep.
inline bool linger(int& waits) {
    if (waits >= kSpins + kYields) return false;
    if (waits++ < kSpins)
        pause_cpu();
    else
        sched_yield();
    return true;
}

struct Pool {
    std::mutex busy;  // held by the caller whose job runs
    std::mutex sleep;
    std::condition_variable wake, finished;
    std::atomic<uint64_t> generation{0};
    Share shares[kMaxThreads];
    std::atomic<int> wanted{0};   // workers still to join the current job
    std::atomic<int> running{0};  // workers inside it
    std::atomic<int> sleepers{0};
    std::atomic<bool> caller_sleeps{false};
    Task task = nullptr;
    void* context = nullptr;
    int sharing = 0;
    int started = 0;

    void drain(int worker) {
        const Task run = task;
        void* const what = context;
        const int all = sharing;
        for (int k = 0; k < all; ++k) {
            Share& share = shares[(worker + k) % all];
            const int64_t end = share.end;
            for (int64_t i = share.next.fetch_add(1, std::memory_order_relaxed); i < end;
                 i = share.next.fetch_add(1, std::memory_order_relaxed))
                run(what, i, worker);
        }
    }

    // Claim a place in the current job; the count in `running` keeps the caller from ending it under us.
    bool join(int& worker) {
        running.fetch_add(1, std::memory_order_seq_cst);
        int places = wanted.load(std::memory_order_seq_cst);
        while (places > 0) {
            if (wanted.compare_exchange_weak(places, places - 1, std::memory_order_seq_cst)) {
                worker = places;
                return true;
            }
        }
        leave();
        return false;
    }

    void leave() {
        if (running.fetch_sub(1, std::memory_order_seq_cst) == 1 && caller_sleeps.load(std::memory_order_seq_cst)) {
            std::lock_guard<std::mutex> lock(sleep);
            finished.notify_all();
        }
    }

    void work() {
        uint64_t seen = 0;
        for (;;) {
            int waits = 0;
            while (generation.load(std::memory_order_seq_cst) == seen) {
                if (linger(waits)) continue;
                std::unique_lock<std::mutex> lock(sleep);
                sleepers.fetch_add(1, std::memory_order_seq_cst);
                wake.wait(lock, [&] { return generation.load(std::memory_order_seq_cst) != seen; });
                sleepers.fetch_sub(1, std::memory_order_seq_cst);
            }
            seen = generation.load(std::memory_order_seq_cst);
            int worker = 0;
            if (join(worker)) {
                drain(worker);
                leave();
            }
        }
    }

    void start(int threads) {
        while (started < threads - 1) {
            std::thread(&Pool::work, this).detach();
            ++started;
        }
    }

    void run(int threads, int64_t n, Task t, void* what) {
        start(threads);
        task = t, context = what, sharing = threads;
        for (int k = 0; k < threads; ++k) {
            shares[k].next.store(k * n / threads, std::memory_order_relaxed);
            shares[k].end = (k + 1) * n / threads;
        }
        wanted.store(threads - 1, std::memory_order_seq_cst);
        generation.fetch_add(1, std::memory_order_seq_cst);
        if (sleepers.load(std::memory_order_seq_cst) > 0) {
            std::lock_guard<std::mutex> lock(sleep);
            wake.notify_all();
        }
        drain(0);
        wanted.store(0, std::memory_order_seq_cst);  // latecomers find no place
        for (int waits = 0; running.load(std::memory_order_seq_cst) != 0;) {
            if (linger(waits)) continue;
            std::unique_lock<std::mutex> lock(sleep);
            caller_sleeps.store(true, std::memory_order_seq_cst);
            finished.wait(lock, [&] { return running.load(std::memory_order_seq_cst) == 0; });
            caller_sleeps.store(false, std::memory_order_seq_cst);
        }
    }
};

// Never destroyed: detached workers may still wait on it while the process ends. Replaced in a forked child, which has no workers.
Pool* g_pool = nullptr;
thread_local bool t_inside = false;

Pool& pool() {
    static std::once_flag once;
    std::call_once(once, [] {
        g_pool = new Pool;
        pthread_atfork(nullptr, nullptr, [] { g_pool = new Pool; });
    });
    return *g_pool;
}

}  // namespace

void parallel(int threads, int64_t count, Task task, void* context) {
    if (threads > kMaxThreads) threads = kMaxThreads;
    if (threads > count) threads = (int)count;
    if (threads > 1 && !t_inside) {
        Pool& p = pool();
        if (p.busy.try_lock()) {
            t_inside = true;
            p.run(threads, count, task, context);
            t_inside = false;
            p.busy.unlock();
            return;
        }
    }
    for (int64_t i = 0; i < count; ++i) task(context, i, 0);
}

}  // namespace av
