// The state of a wave on the model of an AMD chip, and how instructions reach it.
//
// A load fills its registers at once, but until the wave has waited for it no instruction may touch them: a missing
// wait is reported. Registers and shared memory hold NaNs at first.
#ifndef HIP_HOST_AMD_WAVE_H
#define HIP_HOST_AMD_WAVE_H

#include "amd_code.h"

#include <string.h>

#include <deque>
#include <type_traits>

namespace amd {

// What s_waitcnt and its kind count.
enum Traffic { LOADS = 1, STORES = 2, SHARED = 4, SCALAR_LOADS = 8 };

struct Pending {
    Traffic kind;
    Operand registers; // NOTHING for a store
};

// The cache of global memory that is nearest to a wave. It does not see what other blocks write: a load that asks
// for no more than this cache (sc1, glc, a scope) gets what was there when the line was fetched, until the wave empties
// the cache.
struct Cache {
    enum { LINES = 256, LINE = 64 }; // bytes
    uintptr_t lines[LINES];          // the address of each, 0: none
    char bytes[LINES][LINE];

    void empty() { memset(lines, 0, sizeof lines); }
    const char* fetch(const char* address);
    void write_through(const char* address, const void* from, unsigned size);
};

struct Block {
    Cache caches[2]; // gfx10 and later: the waves of a block may run on two units that have one each
    const Kernel* kernel;
    std::vector<char> shared;
    unsigned live, arrived, generation; // waves that have not ended, that are at the barrier; barriers passed
    char arguments[4096];               // with what follows them
    char dispatch[64];                  // the packet of the launch
    uint64_t executed[NUM_KINDS], loaded_bytes;
};

struct Wave {
    uint32_t vector[NUM_VECTORS][MAX_WAVE];
    uint32_t scalar[NUM_SCALARS];
    uint32_t rotated[MAX_WAVE]; // the one source of an instruction that DPP rotates
    bool scc;
    size_t next; // instruction
    bool has_ended, is_asleep;
    unsigned waits_for; // this generation of the block's barrier
    bool is_at_barrier;
    unsigned size;
    Cache* cache;
    Block* block;
    std::vector<char> scratch;
    std::deque<Pending> pending;
    uint64_t busy[2][(NUM_SCALARS + NUM_VECTORS) / 64]; // lower and upper halves of registers that `pending` fills

    uint64_t pair(unsigned first) const { return scalar[first] | (uint64_t)scalar[first + 1] << 32; }
    uint64_t mask(unsigned first) const { return size == 64 ? pair(first) : scalar[first]; }
    void set_mask(unsigned first, uint64_t bits) {
        scalar[first] = (uint32_t)bits;
        if (size == 64) scalar[first + 1] = (uint32_t)(bits >> 32);
    }
    bool is_active(unsigned lane) const { return mask(EXEC) >> lane & 1; }
};

void begin_pending(Wave& w, Traffic kind, const Operand& registers);
// Waits until at most `left` of these kinds (an "or" of Traffic) are under way.
void wait_for(Wave& w, unsigned kinds, size_t left);
void arrive_at_barrier(Block& b);
// Fills w.rotated.
inline const uint32_t* rotate_rows(Wave& w, const Operand& o) {
    for (unsigned lane = 0; lane < w.size; lane++) {
        unsigned from = lane / 16 * 16 + (lane + 16 - o.rotation) % 16;
        if (w.is_active(lane) && !w.is_active(from)) stop("a number from a lane that is not active");
        w.rotated[lane] = w.vector[o.first][from];
    }
    return w.rotated;
}

// ---------------------------------------------------------------------------------------------------------------------
// Operands: T is what the instruction takes them for

// An operand of a wave: the value of lane l lies at low[l * step] and, of 64 bits, at high[l * step] too.
struct Source {
    const uint32_t *low, *high;
    unsigned step;
    const Operand* operand;
};

template <class T> Source source(Wave& w, const Operand& o) {
    static const uint32_t zero = 0;
    switch (o.kind) {
    case Operand::SCALAR: return {&w.scalar[o.first], &w.scalar[o.first + (sizeof(T) > 4)], 0, &o};
    case Operand::VECTOR:
        if (o.rotation > 0) return {rotate_rows(w, o), nullptr, 1, &o};
        return {w.vector[o.first], w.vector[o.first + (sizeof(T) > 4)], 1, &o};
    case Operand::CONSTANT: {
        const uint32_t* words = (const uint32_t*)(std::is_same<T, double>::value ? &o.binary64 : &o.integer);
        return {sizeof(T) > 4 ? words : &o.word, words + 1, 0, &o};
    }
    case Operand::NOTHING: break;
    }
    return {&zero, &zero, 0, &o};
}

template <class T> T read(const Source& s, unsigned lane) {
    uint64_t bits = s.low[lane * s.step];
    if (sizeof(T) > 4) bits |= (uint64_t)s.high[lane * s.step] << 32;
    const Operand& o = *s.operand;
    if (o.bits < 32) { // SDWA
        bits = bits >> o.shift & ((1u << o.bits) - 1);
        if (o.is_signed && bits >> (o.bits - 1)) bits |= ~(uint64_t)0 << o.bits;
    }
    if (std::is_floating_point<T>::value) {
        const uint64_t sign = (uint64_t)1 << (8 * sizeof(T) - 1);
        if (o.is_absolute) bits &= ~sign;
        if (o.is_negative) bits ^= sign;
    }
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

inline void write_word(Wave& w, const Operand& o, unsigned word, unsigned lane, uint32_t bits) {
    if (o.kind == Operand::VECTOR) w.vector[o.first + word][lane] = bits;
    else if (o.kind == Operand::SCALAR) w.scalar[o.first + word] = bits;
}

template <class T> void write(Wave& w, const Operand& o, unsigned lane, T value) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    write_word(w, o, 0, lane, (uint32_t)bits);
    if (sizeof(T) > 4) write_word(w, o, 1, lane, (uint32_t)(bits >> 32));
}

} // namespace amd

#endif
