// The most arithmetic that the processor does per second: what a prompt is measured against.
#ifndef BENCH_PEAK_H
#define BENCH_PEAK_H

#include "bench_measure.h"
#include "../dtype.h"

// Operations per second of all threads together, a multiply-add counting as two; 0 where these kernels have no such
// instruction.
typedef struct {
    double f32;  // fused multiply-add
    double bf16; // dot product of bf16 pairs, added to f32
    double int8; // dot product of int8, added to int32
} PeakRates;

// Measures with the instructions of the kernel variant of that name (CpuKernels.name), medians of `repeats`. The
// processor must have the variant. All 0 for a variant that computes with nothing special ("portable").
PeakRates peak_rates(const char* variant, int threads, int repeats);

// The rate that bounds matrix products with weights of `dtype`, 0 when it is not known.
double peak_of_dtype(const PeakRates* peak, DType dtype);

#endif
