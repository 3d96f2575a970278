// What instructions do that reach memory, and those that say how a wave goes on.
#include "amd_instructions.h"

#include <algorithm>

namespace amd {

// ---------------------------------------------------------------------------------------------------------------------
// Memory

// An address of global memory: a pair of registers, or a scalar base and an offset in a register. Operand numbers.
static char* global_address(Wave& w, const Instruction& i, size_t offset, size_t base, unsigned lane) {
    const Operand& o = i.operands.at(offset);
    u64 address = base < i.operands.size() && i.operands[base].kind == Operand::SCALAR
                      ? w.pair(i.operands[base].first) + read<u32>(source<u32>(w, o), lane)
                      : read<u64>(source<u64>(w, o), lane);
    return (char*)(address + (u64)i.offset);
}
static char* shared_address(Wave& w, const Operand& from, unsigned lane, u64 offset, size_t bytes) {
    u64 address = read<u32>(source<u32>(w, from), lane) + offset;
    if (address + bytes > w.block->shared.size()) stop("an address past the end of shared memory");
    return &w.block->shared[address];
}

// Other blocks write while this one reads: a word at a time, as the chip does.
static u32 load_word(const char* from, unsigned bytes) {
    if (bytes == 4 && (uintptr_t)from % 4 == 0) return __atomic_load_n((const u32*)(const void*)from, __ATOMIC_RELAXED);
    u32 word = 0;
    memcpy(&word, from, bytes);
    return word;
}
static void store_word(char* to, u32 word, unsigned bytes) {
    if (bytes == 4 && (uintptr_t)to % 4 == 0) __atomic_store_n((u32*)(void*)to, word, __ATOMIC_RELAXED);
    else memcpy(to, &word, bytes);
}

static bool is_within_line(const char* address, unsigned bytes) {
    return (uintptr_t)address % Cache::LINE + bytes <= Cache::LINE;
}
const char* Cache::fetch(const char* address) {
    uintptr_t line = (uintptr_t)address / LINE * LINE, slot = line / LINE % LINES;
    if (lines[slot] != line) {
        lines[slot] = line;
        for (unsigned at = 0; at < LINE; at += 4) {
            u32 word = load_word((const char*)line + at, 4);
            memcpy(bytes[slot] + at, &word, sizeof word);
        }
    }
    return bytes[slot] + (uintptr_t)address % LINE;
}
void Cache::write_through(const char* address, const void* from, unsigned size) {
    uintptr_t line = (uintptr_t)address / LINE * LINE, slot = line / LINE % LINES;
    if (lines[slot] == line && is_within_line(address, size))
        memcpy(bytes[slot] + (uintptr_t)address % LINE, from, size);
    else if (lines[slot] == line) lines[slot] = 0;
}

static u32 load_as_asked(Wave& w, const Instruction& i, const char* from, unsigned bytes) {
    u32 word = 0;
    if (i.looks_far || !is_within_line(from, bytes)) return load_word(from, bytes);
    memcpy(&word, w.cache->fetch(from), bytes);
    return word;
}

static Operation load_global(unsigned bytes) { // registers, address, base
    return [bytes](Wave& w, const Instruction& i) {
        for (unsigned lane = 0; lane < w.size; lane++) {
            if (!w.is_active(lane)) continue;
            const char* from = global_address(w, i, 1, 2, lane);
            u32 words[4];
            for (unsigned b = 0; b < bytes; b += 4)
                words[b / 4] = load_as_asked(w, i, from + b, std::min(bytes - b, 4u));
            for (unsigned b = 0; b < bytes; b += 4) write_word(w, i.operands[0], b / 4, lane, words[b / 4]);
        }
        begin_pending(w, LOADS, i.operands[0]);
    };
}
static Operation store_global(unsigned bytes) { // address, registers, base
    return [bytes](Wave& w, const Instruction& i) {
        for (unsigned lane = 0; lane < w.size; lane++) {
            if (!w.is_active(lane)) continue;
            char* to = global_address(w, i, 0, 2, lane);
            for (unsigned b = 0; b < bytes; b += 4) {
                u32 word = w.vector[i.operands.at(1).first + b / 4][lane];
                store_word(to + b, word, std::min(bytes - b, 4u));
                w.cache->write_through(to + b, &word, std::min(bytes - b, 4u));
            }
        }
        begin_pending(w, STORES, Operand());
    };
}

// To and from one half of a register; a load keeps the other one.
static void write_half(Wave& w, const Operand& o, unsigned lane, u32 word) {
    unsigned shift = o.halves == 2 ? 16 : 0;
    write_word(w, o, 0, lane, (w.vector[o.first][lane] & ~(0xffffu << shift)) | word << shift);
}
static Operation load_global_half(unsigned bytes) {
    return [bytes](Wave& w, const Instruction& i) {
        for (unsigned lane = 0; lane < w.size; lane++) {
            if (!w.is_active(lane)) continue;
            write_half(w, i.operands[0], lane, load_as_asked(w, i, global_address(w, i, 1, 2, lane), bytes));
        }
        begin_pending(w, LOADS, i.operands[0]);
    };
}
static void store_upper_half(Wave& w, const Instruction& i) {
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (!w.is_active(lane)) continue;
        char* to = global_address(w, i, 0, 2, lane);
        u32 word = w.vector[i.operands.at(1).first][lane] >> 16;
        store_word(to, word, 2);
        w.cache->write_through(to, &word, 2);
    }
    begin_pending(w, STORES, Operand());
}

// Memory of each lane's own, which a compiler takes for what registers don't hold.
static char* scratch_address(Wave& w, const Instruction& i, const Operand& base, unsigned lane, size_t bytes) {
    size_t each = w.block->kernel->scratch_bytes;
    size_t offset = (size_t)i.offset + (base.kind == Operand::SCALAR ? w.scalar[base.first] : 0);
    if (offset + bytes > each) stop("an address past the end of scratch");
    return &w.scratch[lane * each + offset];
}
static Operation load_scratch(unsigned bytes) { // registers, off, base
    return [bytes](Wave& w, const Instruction& i) {
        for (unsigned lane = 0; lane < w.size; lane++) {
            if (!w.is_active(lane)) continue;
            for (unsigned b = 0; b < bytes; b += 4) {
                write_word(w, i.operands[0], b / 4, lane,
                           load_word(scratch_address(w, i, i.operands.at(2), lane, bytes) + b, 4));
            }
        }
        begin_pending(w, LOADS, i.operands[0]);
    };
}
static Operation store_scratch(unsigned bytes) { // off, registers, base
    return [bytes](Wave& w, const Instruction& i) {
        for (unsigned lane = 0; lane < w.size; lane++) {
            if (!w.is_active(lane)) continue;
            for (unsigned b = 0; b < bytes; b += 4) {
                store_word(scratch_address(w, i, i.operands.at(2), lane, bytes) + b,
                           w.vector[i.operands[1].first + b / 4][lane], 4);
            }
        }
        begin_pending(w, STORES, Operand());
    };
}

// f changes what lies there in one step; the old value goes to a register where the instruction asks for it.
template <class T, class F> Operation atomic_global(F f) {
    return [f](Wave& w, const Instruction& i) {
        size_t address = i.returns ? 1 : 0;
        const Source data = source<T>(w, i.operands.at(address + 1));
        for (unsigned lane = 0; lane < w.size; lane++) {
            if (!w.is_active(lane)) continue;
            T before = f((T*)(void*)global_address(w, i, address, address + 2, lane), read<T>(data, lane));
            if (i.returns) write(w, i.operands[0], lane, before);
        }
        begin_pending(w, i.returns ? LOADS : STORES, i.returns ? i.operands[0] : Operand());
    };
}
static u64 raise_to(u64* at, u64 value) {
    u64 before = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (before < value &&
           !__atomic_compare_exchange_n(at, &before, value, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {}
    return before;
}

static void add_global(Table& t) {
    const std::pair<const char*, unsigned> sizes[] = {{"dword", 4},  {"dwordx2", 8}, {"dwordx3", 12}, {"dwordx4", 16},
                                                      {"b32", 4},    {"b64", 8},     {"b96", 12},     {"b128", 16},
                                                      {"ushort", 2}, {"u16", 2},     {"short", 2},    {"b16", 2},
                                                      {"ubyte", 1},  {"u8", 1},      {"byte", 1},     {"b8", 1}};
    for (const auto& size : sizes) {
        t[std::string("global_load_") + size.first] = t[std::string("flat_load_") + size.first] =
            load_global(size.second);
        t[std::string("global_store_") + size.first] = t[std::string("flat_store_") + size.first] =
            store_global(size.second);
        if (size.second >= 4) t[std::string("scratch_load_") + size.first] = load_scratch(size.second);
        if (size.second >= 4) t[std::string("scratch_store_") + size.first] = store_scratch(size.second);
    }
    t["global_load_d16_b16"] = t["global_load_d16_hi_b16"] = load_global_half(2);
    t["global_store_d16_hi_b16"] = store_upper_half;
    t["global_atomic_add"] = t["global_atomic_add_u32"] =
        atomic_global<u32>([](u32* at, u32 value) { return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST); });
    t["global_atomic_umax_x2"] = t["global_atomic_max_u64"] = atomic_global<u64>(raise_to);
}

// Of value n: a lone one lies at offset, two at offset0 and offset1, which are counted in steps.
static u64 offset_of(const Instruction& i, unsigned n, unsigned values, unsigned step) {
    return values == 1 ? (u64)i.offset : (u64)(n == 0 ? i.offset : i.second_offset) * step;
}

static Operation load_shared(unsigned bytes, unsigned values, unsigned step) { // registers, address
    return [=](Wave& w, const Instruction& i) {
        for (unsigned lane = 0; lane < w.size; lane++) {
            if (!w.is_active(lane)) continue;
            u32 words[4] = {0};
            for (unsigned n = 0; n < values; n++) {
                memcpy((char*)words + n * bytes,
                       shared_address(w, i.operands.at(1), lane, offset_of(i, n, values, step), bytes), bytes);
            }
            for (unsigned n = 0; n < (values * bytes + 3) / 4; n++) write_word(w, i.operands[0], n, lane, words[n]);
        }
        begin_pending(w, SHARED, i.operands[0]);
    };
}
static Operation store_shared(unsigned bytes, unsigned values) { // address, registers of the first, of the second
    return [=](Wave& w, const Instruction& i) {
        for (unsigned lane = 0; lane < w.size; lane++) {
            if (!w.is_active(lane)) continue;
            for (unsigned n = 0; n < values; n++) {
                char* to = shared_address(w, i.operands[0], lane, offset_of(i, n, values, bytes), bytes);
                for (unsigned b = 0; b < bytes; b += 4) {
                    memcpy(to + b, &w.vector[i.operands.at(1 + n).first + b / 4][lane], std::min(bytes - b, 4u));
                }
            }
        }
        begin_pending(w, SHARED, Operand());
    };
}
static Operation load_shared_half(unsigned bytes) {
    return [bytes](Wave& w, const Instruction& i) {
        for (unsigned lane = 0; lane < w.size; lane++) {
            if (!w.is_active(lane)) continue;
            u32 word = 0;
            memcpy(&word, shared_address(w, i.operands.at(1), lane, (u64)i.offset, bytes), bytes);
            write_half(w, i.operands[0], lane, word);
        }
        begin_pending(w, SHARED, i.operands[0]);
    };
}
static void store_shared_upper_half(Wave& w, const Instruction& i) {
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (!w.is_active(lane)) continue;
        u32 word = w.vector[i.operands.at(1).first][lane] >> 16;
        memcpy(shared_address(w, i.operands[0], lane, (u64)i.offset, 2), &word, 2);
    }
    begin_pending(w, SHARED, Operand());
}
static void ds_add_u64(Wave& w, const Instruction& i) {
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (!w.is_active(lane)) continue;
        char* at = shared_address(w, i.operands[0], lane, (u64)i.offset, 8);
        u64 sum;
        memcpy(&sum, at, 8);
        sum += read<u64>(source<u64>(w, i.operands.at(1)), lane);
        memcpy(at, &sum, 8);
    }
    begin_pending(w, SHARED, Operand());
}

static void add_shared(Table& t) {
    const std::pair<const char*, unsigned> sizes[] = {{"b32", 4}, {"b64", 8}, {"b96", 12}, {"b128", 16},
                                                      {"u16", 2}, {"u8", 1},  {"b16", 2},  {"b8", 1}};
    for (const auto& size : sizes) {
        std::string type = std::string("_") + size.first;
        t["ds_read" + type] = t["ds_load" + type] = load_shared(size.second, 1, 1);
        t["ds_write" + type] = t["ds_store" + type] = store_shared(size.second, 1);
        t["ds_write2" + type] = t["ds_store_2addr" + type] = store_shared(size.second, 2);
        if (size.second > 8) continue;
        t["ds_read2" + type] = t["ds_load_2addr" + type] = load_shared(size.second, 2, size.second);
        t["ds_read2st64" + type] = t["ds_load_2addr_stride64" + type] = load_shared(size.second, 2, 64 * size.second);
    }
    t["ds_load_u8_d16"] = load_shared_half(1);
    t["ds_load_u16_d16"] = t["ds_load_u16_d16_hi"] = load_shared_half(2);
    t["ds_store_b16_d16_hi"] = store_shared_upper_half;
    t["ds_add_u64"] = ds_add_u64;
}

// D = words from a scalar base, an offset in the instruction and one that is an operand.
static Operation load_scalars(unsigned words) {
    return [words](Wave& w, const Instruction& i) {
        u64 address = w.pair(i.operands.at(1).first) + (u64)i.offset;
        if (i.operands.size() > 2) address += read<u32>(source<u32>(w, i.operands[2]), 0);
        for (unsigned n = 0; n < words; n++) {
            write_word(w, i.operands[0], n, 0, load_word((const char*)(address & ~(u64)3) + 4 * n, 4));
        }
        begin_pending(w, SCALAR_LOADS, i.operands[0]);
    };
}

static void add_scalar_loads(Table& t) {
    const std::pair<const char*, unsigned> sizes[] = {{"dword", 1}, {"b32", 1},       {"dwordx2", 2}, {"b64", 2},
                                                      {"b96", 3},   {"dwordx4", 4},   {"b128", 4},    {"dwordx8", 8},
                                                      {"b256", 8},  {"dwordx16", 16}, {"b512", 16}};
    for (const auto& size : sizes) t[std::string("s_load_") + size.first] = load_scalars(size.second);
}

void add_memory(Table& t) {
    add_global(t);
    add_shared(t);
    add_scalar_loads(t);
}

// ---------------------------------------------------------------------------------------------------------------------
// Waiting and branching

static void s_waitcnt(Wave& w, const Instruction& i) {
    bool stores_too = w.block->kernel->generation == 9;
    if (i.loads_left >= 0) wait_for(w, LOADS | (stores_too ? STORES : 0), (size_t)i.loads_left);
    if (i.others_left >= 0) wait_for(w, SHARED | SCALAR_LOADS, (size_t)i.others_left);
}
static Operation wait_counter(unsigned kinds, size_t place) {
    return [=](Wave& w, const Instruction& i) { wait_for(w, kinds, i.operands.at(place).word); };
}
static Operation branch(bool (*is_taken)(const Wave&)) {
    return [is_taken](Wave& w, const Instruction& i) {
        if (is_taken(w)) w.next = i.target;
    };
}

void add_control(Table& t) {
    t["s_waitcnt"] = s_waitcnt;
    t["s_waitcnt_vscnt"] = wait_counter(STORES, 1);
    t["s_wait_loadcnt"] = wait_counter(LOADS, 0);
    t["s_wait_storecnt"] = wait_counter(STORES, 0);
    t["s_wait_dscnt"] = wait_counter(SHARED, 0);
    t["s_wait_kmcnt"] = wait_counter(SCALAR_LOADS, 0);
    t["s_wait_loadcnt_dscnt"] = [](Wave& w, const Instruction& i) {
        wait_for(w, LOADS, i.operands.at(0).word >> 8);
        wait_for(w, SHARED, i.operands[0].word & 0xff);
    };
    t["s_barrier"] = [](Wave& w, const Instruction&) {
        w.waits_for = w.block->generation, w.is_at_barrier = true;
        arrive_at_barrier(*w.block);
    };
    t["s_barrier_signal"] = [](Wave& w, const Instruction&) {
        w.waits_for = w.block->generation;
        arrive_at_barrier(*w.block);
    };
    t["s_barrier_wait"] = [](Wave& w, const Instruction&) { w.is_at_barrier = true; };
    t["s_sleep"] = [](Wave& w, const Instruction&) { w.is_asleep = true; };
    t["s_endpgm"] = [](Wave& w, const Instruction&) { w.has_ended = true; };
    t["s_branch"] = branch([](const Wave&) { return true; });
    t["s_cbranch_scc0"] = branch([](const Wave& w) { return !w.scc; });
    t["s_cbranch_scc1"] = branch([](const Wave& w) { return w.scc; });
    t["s_cbranch_vccz"] = branch([](const Wave& w) { return w.mask(VCC) == 0; });
    t["s_cbranch_vccnz"] = branch([](const Wave& w) { return w.mask(VCC) != 0; });
    t["s_cbranch_execz"] = branch([](const Wave& w) { return w.mask(EXEC) == 0; });
    t["s_cbranch_execnz"] = branch([](const Wave& w) { return w.mask(EXEC) != 0; });
    for (const char* name : {"buffer_inv", "buffer_gl0_inv", "buffer_wbinvl1", "buffer_wbinvl1_vol", "global_inv"}) {
        t[name] = [](Wave& w, const Instruction&) { w.cache->empty(); };
    }
    // what is only about time here: an instruction has ended when the next begins, and stores go to memory at once
    for (const char* name :
         {"s_nop", "s_clause", "s_delay_alu", "s_set_inst_prefetch_distance", "s_inst_prefetch", "s_sendmsg",
          "s_waitcnt_depctr", "s_wait_alu", "s_setprio", "buffer_wbl2", "buffer_gl1_inv", "global_wb"}) {
        t[name] = [](Wave&, const Instruction&) {};
    }
}

const Operation* find_operation(const std::string& name) {
    static const Table table = [] {
        Table t;
        for (void (*add)(Table&) : {add_vector, add_scalar, add_memory, add_control}) add(t);
        return t;
    }();
    auto at = table.find(name);
    return at == table.end() ? nullptr : &at->second;
}

} // namespace amd
