// The variants of cpu_kernels.c that the Makefile compiles for this architecture, best first:
//   X(name, condition under which the processor can run it, and this is its place)
// The Makefile has the flags of each under the same name.
#ifndef CPU_VARIANTS_H
#define CPU_VARIANTS_H

#include <stdbool.h>

#if defined(__x86_64__)
#include <cpuid.h>

// __builtin_cpu_supports("f16c"), a name that clang 14 does not know.
static inline bool f16c_supported(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

// AVX-VNNI, another name that clang 14 does not know: leaf 7, subleaf 1.
static inline bool avxvnni_supported(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1u << 4) != 0;
}

#define AVX2_SUPPORTED (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c_supported())
#define AVX512_SUPPORTED                                                                                               \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&  \
     __builtin_cpu_supports("avx512dq"))
#define AVX512VNNI_SUPPORTED (AVX512_SUPPORTED && __builtin_cpu_supports("avx512vnni"))
#define AVX512BF16_SUPPORTED (AVX512VNNI_SUPPORTED && __builtin_cpu_supports("avx512bf16"))

// AMD's dot product of bf16 does twice the work of a multiply-add of f32 in the same time; Intel's takes four times as
// long, so that weights are better widened there (dev/CPU.md).
#define BF16_DOT_IS_SLOW __builtin_cpu_is("intel")

#define CPU_VARIANTS(X)                                                                                                \
    X(avx512bf16, AVX512BF16_SUPPORTED && !BF16_DOT_IS_SLOW)                                                           \
    X(avx512vnni, AVX512VNNI_SUPPORTED)                                                                                \
    X(avx512bf16, AVX512BF16_SUPPORTED&& BF16_DOT_IS_SLOW)                                                             \
    X(avx512, AVX512_SUPPORTED)                                                                                        \
    X(avxvnni, AVX2_SUPPORTED&& avxvnni_supported())                                                                   \
    X(avx2, AVX2_SUPPORTED)                                                                                            \
    X(portable, true)
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#include <asm/hwcap.h>
#define CPU_VARIANTS(X)                                                                                                \
    X(dotprod, (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0)                                                             \
    X(portable, true)
#else
#define CPU_VARIANTS(X) X(portable, true)
#endif

#endif
