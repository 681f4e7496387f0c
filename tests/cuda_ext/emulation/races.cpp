// See races.h. This file itself is compiled without instrumentation.
#include "races.h"

#include <link.h>

#include <memory>
#include <unordered_map>

#include "emulation.h"

namespace emulation {

// Who touched a granule, and when.
struct Visit {
    uint32_t launch = 0, block = 0, barriers = 0, syncs = 0;  // syncs: of the warp
    uint16_t thread = 0;
};

struct Granule {
    Visit write, atomic, read[2];  // the last ones; the two reads of different threads
};

constexpr uintptr_t GRANULE = 4, PAGE = 4096;

struct Page {
    Granule granules[PAGE / GRANULE];
};

struct Segment {
    uintptr_t begin = 0, end = 0;
};

// The writable memory of this library, in which AV_SHARED variables lie.
static Segment own_data() {
    static Segment found;
    if (found.end) return found;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
            Segment writable, all;
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const auto& header = info->dlpi_phdr[i];
                if (header.p_type != PT_LOAD) continue;
                const uintptr_t begin = info->dlpi_addr + header.p_vaddr, end = begin + header.p_memsz;
                if (!all.begin || begin < all.begin) all.begin = begin;
                if (end > all.end) all.end = end;
                if (header.p_flags & PF_W) writable = {begin, end};
            }
            const uintptr_t here = (uintptr_t)&machine;
            if (here < all.begin || here >= all.end) return 0;
            *static_cast<Segment*>(out) = writable;
            return 1;
        },
        &found);
    return found;
}

static bool unordered(const Visit& before, const Visit& now, bool shared) {
    if (before.launch != now.launch) return false;
    if (before.block != now.block) return !shared;  // the emulation hands the same shared memory to block after block
    if (before.thread == now.thread || before.barriers != now.barriers) return false;
    return before.thread / 32 != now.thread / 32 || before.syncs == now.syncs;
}

static void visit(uintptr_t granule, Access access) {
    static std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
    static uintptr_t last_key = ~(uintptr_t)0;
    static Page* last_page = nullptr;
    const uintptr_t key = granule / PAGE;
    if (key != last_key) {
        auto& page = pages[key];
        if (!page) page.reset(new Page);
        last_key = key, last_page = page.get();
    }
    Granule& g = last_page->granules[granule % PAGE / GRANULE];
    const Segment data = own_data();
    const bool shared = granule >= data.begin && granule < data.end;
    const dim3 b = machine.block_index, size = machine.grid_size;
    Visit now;
    now.launch = machine.launches, now.block = (b.z * size.y + b.y) * size.x + b.x;
    now.barriers = machine.barriers, now.syncs = machine.syncs[current->warp];
    now.thread = (uint16_t)(current->warp * 32 + current->lane);
    const char* where = shared ? "shared memory" : "global memory";
    const auto clash = [&](const Visit& before, const char* what) {
        if (!unordered(before, now, shared)) return;
        char text[160];
        snprintf(text, sizeof text, "a race in %s at %p: %s, by block %u thread %u and block %u thread %u", where, (void*)granule, what, before.block,
                 before.thread, now.block, now.thread);
        stop(text);
    };
    if (access == READ) {
        clash(g.write, "a read after a write");
        clash(g.atomic, "a read after an atomic");
        if (g.read[0].thread != now.thread || g.read[0].block != now.block) g.read[1] = g.read[0];
        g.read[0] = now;
        return;
    }
    clash(g.write, access == WRITE ? "two writes" : "an atomic after a write");
    for (const Visit& read : g.read) clash(read, access == WRITE ? "a write after a read" : "an atomic after a read");
    if (access == WRITE) clash(g.atomic, "a write after an atomic");
    (access == WRITE ? g.write : g.atomic) = now;
}

void touch(const void* at, size_t bytes, Access access) {
    if (!current) return;  // the host
    const uintptr_t begin = (uintptr_t)at, stack = (uintptr_t)current->stack.data();
    if (begin >= stack && begin < stack + current->stack.size()) return;
    for (uintptr_t granule = begin / GRANULE * GRANULE; granule < begin + bytes; granule += GRANULE) visit(granule, access);
}

}  // namespace emulation

using emulation::touch;

// What the compiler calls.
extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
#define AV_ACCESS(bytes)                                                                         \
    void __tsan_read##bytes(void* at) { touch(at, bytes, emulation::READ); }                     \
    void __tsan_write##bytes(void* at) { touch(at, bytes, emulation::WRITE); }                   \
    void __tsan_unaligned_read##bytes(void* at) { touch(at, bytes, emulation::READ); }           \
    void __tsan_unaligned_write##bytes(void* at) { touch(at, bytes, emulation::WRITE); }
AV_ACCESS(1)
AV_ACCESS(2)
AV_ACCESS(4)
AV_ACCESS(8)
AV_ACCESS(16)
#undef AV_ACCESS
void __tsan_read_range(void* at, size_t bytes) { touch(at, bytes, emulation::READ); }
void __tsan_write_range(void* at, size_t bytes) { touch(at, bytes, emulation::WRITE); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

}  // extern "C"
