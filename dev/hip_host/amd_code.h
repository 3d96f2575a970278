// AMD machine code, as a compiler left it for one chip: what the host harness runs in place of the kernels that g++
// made. dev/hip_code.sh writes two files, NAME.co, the code object (ELF), and NAME.txt, its disassembly by
// llvm-objdump.
//
//   amd_code.cc            reads them into kernels and instructions
//   amd_wave.h             the state of a wave, and how an instruction reaches it
//   amd_instructions.h     from an instruction's name to what it does: amd_vector.cc, amd_scalar.cc, amd_memory.cc
//   amd_run.cc             one block, wave by wave
//
// What it shows: that the code computes what it should, waits for its loads, meets at its barriers, and looks past the
// nearest cache for what other blocks write, with the layouts of the chip's matrix instructions. What it does not:
// stores that arrive in another order than they were made in, hazards between neighbouring instructions, time.
#ifndef HIP_HOST_AMD_CODE_H
#define HIP_HOST_AMD_CODE_H

#include <stdint.h>
#include <stdio.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace amd {

struct Wave;
struct Instruction;
typedef std::function<void(Wave&, const Instruction&)> Operation;

// Scalar registers, by number; above them what else an instruction can name.
enum {
    VCC = 106,
    TTMP = 108,
    M0 = 124,
    EXEC = 126,
    NUM_SCALARS = 128,
    NUM_VECTORS = 512, // 256 of v, 256 of a
    MAX_WAVE = 64
};

struct Operand {
    enum Kind { NOTHING, SCALAR, VECTOR, CONSTANT } kind = NOTHING;   // NOTHING: "off", "null"
    unsigned first = 0, count = 1;                                    // registers
    uint32_t word = 0;                                                // a constant, as an operand of 32 bits,
    uint64_t integer = 0, binary64 = 0;                               // as an integer or a float of 64
    bool is_negative = false, is_absolute = false, is_signed = false; // -v0, |v0|, sext(v0)
    unsigned shift = 0, bits = 32;                                    // the part of a register: SDWA, v0.h
    unsigned halves = 3;                                              // of a register: 1 the lower, 2 the upper
    unsigned rotation = 0;                                            // DPP: lanes by which rows of 16 are rotated
};

// What executed instructions are counted as.
enum Kind {
    VECTOR_KIND,
    MATRIX_KIND,
    SCALAR_KIND,
    LOAD_KIND,
    STORE_KIND,
    SHARED_KIND,
    SCALAR_LOAD_KIND,
    BRANCH_KIND,
    WAIT_KIND,
    NUM_KINDS
};

struct Instruction {
    Kind kind;
    std::string name; // without _e32, _e64, _sdwa
    std::string text; // as disassembled
    uint64_t address = 0;
    const Operation* operation = nullptr;
    std::vector<Operand> operands;
    long offset = 0, second_offset = 0;     // offset: or offset0:, offset1:
    long loads_left = -1, others_left = -1; // vmcnt and lgkmcnt of s_waitcnt; -1: not waited for
    unsigned op_sel = 0, op_sel_hi = 0;     // a bit for each source
    unsigned neg_lo = 0, neg_hi = 0;        // likewise
    unsigned truth_table = 0;               // of v_bitop3_b32
    bool returns = false;                   // an atomic operation that wants to know what was there
    bool looks_far = false;                 // a load that sees what other blocks have written
    bool fills_upper = false,
         pads = false;                 // SDWA: the result goes to the upper half; the rest of the register becomes 0
    size_t target = 0;                 // of a branch: the instruction's number in the kernel
    std::unique_ptr<Instruction> twin; // the second half of a v_dual
};

struct Kernel {
    std::string name;
    std::string chip;    // "gfx942"
    unsigned generation; // of chips: gfx942 is of 9, gfx1100 of 11
    std::vector<Instruction> instructions;
    unsigned wave_size, user_scalars, shared_bytes, argument_bytes, scratch_bytes;
    int dispatch_at, arguments_at; // the scalars in which a wave finds these addresses; -1: it does not want them
    bool wants_block[3];
    bool has_new_arguments; // what follows the arguments is that of code object version 5 and later
    // since the start, by all waves; bytes that the loads have asked for
    mutable std::atomic<uint64_t> executed[NUM_KINDS], loaded_bytes, blocks;
};

// A code object. Kernels are read when they are asked for.
class Code {
  public:
    // `path`: the two files without their endings; the last part of it names the chip. Ends the program when they can't
    // be read.
    explicit Code(const std::string& path);
    // nullptr: there is no such kernel
    const Kernel* kernel(const std::string& symbol);
    const std::string& chip() const { return chip_; }
    unsigned wave_size();
    // What the kernels have executed, a line each.
    void print_counts(FILE* out) const;

  private:
    std::string chip_, object, listing;
    std::map<std::string, size_t> descriptors, places; // of each kernel: where in `object` and `listing`
    std::map<std::string, std::unique_ptr<Kernel>> kernels;
};

struct Size3 {
    unsigned x, y, z;
};

// Runs block (index) of a grid of blocks of `dim` threads. `arguments` are the kernel's, laid out as in C.
// `in_reverse`: the last wave first. `pause` is called when every wave of the block waits for another block.
void run_block(const Kernel& kernel, const std::vector<char>& arguments, Size3 index, Size3 grid, Size3 dim,
               size_t dynamic_shared_bytes, bool in_reverse, const std::function<void()>& pause);

// What this thread is at, for a report of a fault: "gfx942, KERNEL+0x1c: s_load_dword ...".
std::string current_instruction();

[[noreturn]] void stop(const std::string& what);

// What the instruction of this name does; nullptr: not known.
const Operation* find_operation(const std::string& name);

} // namespace amd

#endif
