// Each measurement is a loop over SUMS independent chains of one instruction on registers, so that neither memory nor
// the latency of the instruction counts.
#include "bench_peak.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { SUMS = 14 }; // latency 4 on two pipes wants 8; 16 registers less the two factors

// void name(n): n rounds of SUMS times `step`, an expression in sum, a and b. The empty assembler line keeps the sums
// in registers and the compiler from seeing through the loop.
#define PEAK_LOOP(name, attributes, vector, constraint, zero, factor, step)                                            \
    attributes static void name(long n) {                                                                              \
        vector sums[SUMS], a = factor, b = factor;                                                                     \
        for (int i = 0; i < SUMS; i++) sums[i] = zero;                                                                 \
        for (; n > 0; n--) {                                                                                           \
            _Pragma("GCC unroll 16") for (int i = 0; i < SUMS; i++) {                                                  \
                vector sum = sums[i];                                                                                  \
                sums[i] = step;                                                                                        \
                __asm__ volatile("" : "+" constraint(sums[i]));                                                        \
            }                                                                                                          \
        }                                                                                                              \
        (void)a, (void)b;                                                                                              \
    }

#if defined(__x86_64__)
#define TARGET(features) __attribute__((target(features)))
PEAK_LOOP(f32_avx2, TARGET("avx2,fma"), __m256, "x", _mm256_set1_ps(1), _mm256_set1_ps(0.5f),
          _mm256_fmadd_ps(sum, a, b))
PEAK_LOOP(f32_avx512, TARGET("avx512f"), __m512, "v", _mm512_set1_ps(1), _mm512_set1_ps(0.5f),
          _mm512_fmadd_ps(sum, a, b))
PEAK_LOOP(bf16_avx512, TARGET("avx512f,avx512bf16"), __m512, "v", _mm512_set1_ps(1), _mm512_set1_ps(0.5f),
          _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b))
PEAK_LOOP(int8_avx512, TARGET("avx512f,avx512vnni"), __m512i, "v", _mm512_set1_epi8(1), _mm512_set1_epi8(1),
          _mm512_dpbusd_epi32(sum, a, b))
#elif defined(__aarch64__)
PEAK_LOOP(f32_neon, , float32x4_t, "w", vdupq_n_f32(1), vdupq_n_f32(0.5f), vfmaq_f32(b, sum, a))
PEAK_LOOP(int8_dotprod, __attribute__((target("arch=armv8.2-a+dotprod"))), int32x4_t, "w", vdupq_n_s32(1),
          vdupq_n_s32(1), vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b)))
#endif

// Operations per second of `loop`, whose instruction does `operations`, on all threads at once.
static double measure(void (*loop)(long), double operations, int threads, int repeats) {
    enum { ROUNDS = 2000000 }; // some 10 ms, longer than the threads need to start
    Times rates = {.n = 0};
    for (int i = 0; i < repeats; i++) {
        double start = seconds_now();
#pragma omp parallel num_threads(threads)
        loop(ROUNDS);
        times_add(&rates, operations * SUMS * ROUNDS * threads / (seconds_now() - start));
    }
    return times_median(&rates);
}

PeakRates peak_rates(const char* variant, int threads, int repeats) {
    PeakRates peak = {0};
#if defined(__x86_64__)
    if (strcmp(variant, "avx2") == 0) peak.f32 = measure(f32_avx2, 2 * 8, threads, repeats);
    if (strncmp(variant, "avx512", 6) == 0) peak.f32 = measure(f32_avx512, 2 * 16, threads, repeats);
    if (strcmp(variant, "avx512bf16") == 0) {
        peak.bf16 = measure(bf16_avx512, 2 * 32, threads, repeats);
        peak.int8 = measure(int8_avx512, 2 * 64, threads, repeats);
    }
#elif defined(__aarch64__)
    peak.f32 = measure(f32_neon, 2 * 4, threads, repeats);
    if (strcmp(variant, "dotprod") == 0) peak.int8 = measure(int8_dotprod, 2 * 16, threads, repeats);
#else
    (void)variant, (void)threads, (void)repeats, (void)measure;
#endif
    return peak;
}

double peak_of_dtype(const PeakRates* peak, DType dtype) {
    if (dtype == DTYPE_Q8) return peak->int8;
    return dtype == DTYPE_BF16 && peak->bf16 > 0 ? peak->bf16 : peak->f32; // else bf16 and f16 are widened to f32
}
