// From an instruction's name to what it does. Written from AMD's manuals of the instruction sets ("CDNA3", "RDNA3",
// "RDNA4 Instruction Set Architecture"); those for which they leave the last bit open (exp, log, rcp, sqrt) are rounded
// from float64. Only what compilers have made of gpt2_kernels.hip is there; anything else ends the program and is named.
#ifndef HIP_HOST_AMD_INSTRUCTIONS_H
#define HIP_HOST_AMD_INSTRUCTIONS_H

#include "amd_wave.h"

#include <map>
#include <string>

extern "C" {
#include "../../dtype.h"
}

namespace amd {

typedef std::map<std::string, Operation> Table;
typedef uint32_t u32;
typedef uint64_t u64;

// Of operands and lanes (amd_vector.cc), of a wave's scalars (amd_scalar.cc), of memory and of the wave's course
// (amd_memory.cc).
void add_vector(Table& t);
void add_scalar(Table& t);
void add_memory(Table& t);
void add_control(Table& t);

// Arithmetic that vectors and scalars share
float reciprocal(float a);
float power_of_2(float a);
float logarithm_2(float a);
float root(float a);
u32 to_u32(double d);
int32_t to_i32(double d);
u32 reversed(u32 a);
u32 field(u32 a, u32 first, u32 width); // `width` bits of a from bit `first` % 32 on
u32 signed_field(u32 a, u32 first, u32 width);

} // namespace amd

#endif
