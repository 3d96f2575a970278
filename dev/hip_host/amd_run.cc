// One block of AMD machine code, wave by wave. A wave runs until it waits for a barrier, sleeps or has had its turn.
#include "amd_wave.h"

#include <stdio.h>
#include <unistd.h>

#include <algorithm>

namespace amd {

enum { TURN = 2000, MAX_BLOCK_WAVES = 32 }; // instructions; waves of 32 lanes in 1024 threads

static thread_local const Kernel* current_kernel;
static thread_local const Instruction* current;

std::string current_instruction() {
    if (current == nullptr) return "";
    char offset[32];
    snprintf(offset, sizeof offset,
             "+0x%llx: ", (unsigned long long)(current->address - current_kernel->instructions[0].address));
    return current_kernel->chip + ", " + current_kernel->name + offset + current->text;
}

void stop(const std::string& what) {
    fprintf(stderr, "hip_host: %s%s%s\n", current_instruction().c_str(), current == nullptr ? "" : ": ", what.c_str());
    _exit(1);
}

// ---------------------------------------------------------------------------------------------------------------------
// Loads under way

static unsigned bit_of(const Operand& o) {
    return o.first + (o.kind == Operand::VECTOR ? (unsigned)NUM_SCALARS : 0);
}
static void mark(Wave& w, const Operand& o, bool is_busy) {
    for (unsigned n = 0; o.kind != Operand::NOTHING && n < o.count; n++) {
        uint64_t bit = (uint64_t)1 << (bit_of(o) + n) % 64;
        for (unsigned half = 0; half < 2; half++) {
            uint64_t& word = w.busy[half][(bit_of(o) + n) / 64];
            if (o.halves >> half & 1) word = is_busy ? word | bit : word & ~bit;
        }
    }
}

void begin_pending(Wave& w, Traffic kind, const Operand& registers) {
    w.pending.push_back({kind, registers});
    mark(w, registers, true);
}

void wait_for(Wave& w, unsigned kinds, size_t left) {
    size_t under_way = 0;
    bool in_any_order = false; // scalar loads: only waiting for all of them says anything
    for (const Pending& p : w.pending) {
        under_way += (p.kind & kinds) != 0;
        in_any_order |= (p.kind & kinds & SCALAR_LOADS) != 0;
    }
    if (in_any_order && left > 0) return;
    for (auto p = w.pending.begin(); under_way > left;) {
        if (p->kind & kinds) {
            mark(w, p->registers, false);
            p = w.pending.erase(p);
            under_way--;
        } else {
            ++p;
        }
    }
}

static void check_registers(const Wave& w, const Instruction& i) {
    for (const Operand& o : i.operands) {
        if (o.kind != Operand::SCALAR && o.kind != Operand::VECTOR) continue;
        for (unsigned n = 0; n < o.count; n++) {
            unsigned word = (bit_of(o) + n) / 64, bit = (bit_of(o) + n) % 64;
            unsigned busy = (w.busy[0][word] >> bit & 1) | (w.busy[1][word] >> bit & 1) << 1;
            if (busy & o.halves) stop("a register that a load has not filled yet");
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Waves

void arrive_at_barrier(Block& b) {
    if (++b.arrived < b.live) return;
    b.arrived = 0;
    b.generation++;
}

static void leave(Block& b) {
    b.live--;
    if (b.live > 0 && b.arrived == b.live) b.arrived = 0, b.generation++;
}

// Both halves of a v_dual read before either writes.
static void execute_pair(Wave& w, const Instruction& i) {
    const Instruction& second = *i.twin;
    check_registers(w, second);
    if (second.operation == nullptr) stop("not known to the model");
    uint32_t(&target)[MAX_WAVE] = w.vector[i.operands.at(0).first];
    uint32_t before[MAX_WAVE], after[MAX_WAVE];
    memcpy(before, target, sizeof before);
    (*i.operation)(w, i);
    memcpy(after, target, sizeof after);
    memcpy(target, before, sizeof before);
    (*second.operation)(w, second);
    memcpy(target, after, sizeof after);
}

// Runs the wave for a turn. False: it could do nothing, or slept.
static bool run_wave(Wave& w) {
    w.is_asleep = false;
    for (unsigned n = 0; n < TURN; n++) {
        if (w.is_at_barrier && w.block->generation == w.waits_for) return n > 0;
        w.is_at_barrier = false;
        const Instruction& i = current_kernel->instructions.at(w.next++);
        current = &i;
        if (!w.pending.empty()) check_registers(w, i);
        if (i.operation == nullptr) stop("not known to the model");
        if (i.twin) execute_pair(w, i);
        else (*i.operation)(w, i);
        w.block->executed[i.kind]++;
        if (i.kind == LOAD_KIND)
            w.block->loaded_bytes += 4 * i.operands[0].count * (unsigned)__builtin_popcountll(w.mask(EXEC));
        if (w.has_ended) {
            leave(*w.block);
            return true;
        }
        if (w.is_asleep) return false;
    }
    return true;
}

static void set_pair(Wave& w, unsigned at, const void* pointer) {
    w.scalar[at] = (uint32_t)(uintptr_t)pointer;
    w.scalar[at + 1] = (uint32_t)((uintptr_t)pointer >> 32);
}

// Registers at the start, as the descriptor asks for them: LLVM's User Guide for AMDGPU Backend, Initial Kernel
// Execution State.
static void start_wave(Wave& w, Block* b, unsigned number, unsigned threads, Size3 index) {
    const Kernel& k = *b->kernel;
    memset(w.vector, 0xff, sizeof w.vector);
    memset(w.scalar, 0xff, sizeof w.scalar);
    memset(w.busy, 0, sizeof w.busy);
    w.pending.clear();
    w.scratch.assign((size_t)k.wave_size * k.scratch_bytes, (char)0xff);
    w.scc = w.has_ended = w.is_asleep = w.is_at_barrier = false;
    w.next = 0, w.size = k.wave_size, w.block = b;
    w.cache = &b->caches[k.generation > 9 ? number % 2 : 0];
    unsigned first = number * w.size, lanes = std::min(threads - first, w.size), at = k.user_scalars;
    w.set_mask(EXEC, lanes == 64 ? ~(uint64_t)0 : ((uint64_t)1 << lanes) - 1);
    if (k.dispatch_at >= 0) set_pair(w, (unsigned)k.dispatch_at, b->dispatch);
    if (k.arguments_at >= 0) set_pair(w, (unsigned)k.arguments_at, b->arguments);
    const unsigned numbers[] = {index.x, index.y, index.z};
    if (k.generation >= 12) {
        w.scalar[TTMP + 9] = index.x, w.scalar[TTMP + 7] = index.y | index.z << 16;
    } else {
        for (int axis = 0; axis < 3; axis++) {
            if (k.wants_block[axis]) w.scalar[at++] = numbers[axis];
        }
    }
    for (unsigned lane = 0; lane < w.size; lane++) w.vector[0][lane] = first + lane; // y and z, packed above it, are 0
}

// Behind the kernel's own arguments stand the sizes of grid and block (LLVM's User Guide, Code Object V5 Hidden
// Arguments); before version 5 they were in the packet of the launch.
static void write_arguments(Block* b, const std::vector<char>& arguments, Size3 grid, Size3 dim) {
    const Kernel& k = *b->kernel;
    size_t hidden = (arguments.size() + 7) / 8 * 8;
    if (hidden + 256 > sizeof b->arguments || arguments.size() > k.argument_bytes)
        stop(k.name + ": other arguments than the kernel has");
    memset(b->arguments, 0, sizeof b->arguments);
    memset(b->dispatch, 0, sizeof b->dispatch);
    memcpy(b->arguments, arguments.data(), arguments.size());
    const uint32_t blocks[] = {grid.x, grid.y, grid.z}, threads[] = {grid.x * dim.x, grid.y * dim.y, grid.z * dim.z};
    const uint16_t sizes[] = {(uint16_t)dim.x, (uint16_t)dim.y, (uint16_t)dim.z};
    if (k.has_new_arguments) {
        memcpy(b->arguments + hidden, blocks, sizeof blocks);
        memcpy(b->arguments + hidden + 12, sizes, sizeof sizes);
        b->arguments[hidden + 64] = 3;
    }
    memcpy(b->dispatch + 4, sizes, sizeof sizes);
    memcpy(b->dispatch + 12, threads, sizeof threads);
}

void run_block(const Kernel& kernel, const std::vector<char>& arguments, Size3 index, Size3 grid, Size3 dim,
               size_t dynamic_shared_bytes, bool in_reverse, const std::function<void()>& pause) {
    static thread_local std::unique_ptr<Wave[]> waves(new Wave[MAX_BLOCK_WAVES]);
    static thread_local Block b;
    unsigned threads = dim.x * dim.y * dim.z, count = (threads + kernel.wave_size - 1) / kernel.wave_size;
    current_kernel = &kernel;
    if (dim.y * dim.z != 1) stop("a launch that the model does not know");
    b.kernel = &kernel, b.live = count, b.arrived = b.generation = 0;
    memset(b.executed, 0, sizeof b.executed);
    b.loaded_bytes = 0;
    b.shared.assign(kernel.shared_bytes + dynamic_shared_bytes, (char)0xff);
    write_arguments(&b, arguments, grid, dim);
    for (Cache& cache : b.caches) cache.empty();
    for (unsigned n = 0; n < count; n++) start_wave(waves[n], &b, n, threads, index);
    while (b.live > 0) {
        bool has_moved = false;
        for (unsigned n = 0; n < count; n++) {
            Wave& w = waves[in_reverse ? count - 1 - n : n];
            if (!w.has_ended) has_moved |= run_wave(w);
        }
        if (!has_moved) pause();
    }
    for (int kind = 0; kind < NUM_KINDS; kind++) kernel.executed[kind] += b.executed[kind];
    kernel.loaded_bytes += b.loaded_bytes, kernel.blocks++;
    current = nullptr;
}

} // namespace amd
