// What this machine can do at most, measured: the roof that a profile compares with.
#ifndef MACHINE_H
#define MACHINE_H

#include "dtype.h"
#include "utils.h"

// Of all threads together, a multiply-add counting as two operations.
typedef struct {
    double bandwidth; // bytes per second, reading a working set of the size that was asked for
    double f32;       // operations per second of multiply-adds in f32
    double products;  // operations per second of the instruction that products with the weights are made of
} MachineRates;

// Measures with the instructions of the CPU kernel variant of that name (CpuKernels.name), which the processor must
// have, for weights of `dtype`. Each figure is the fastest of several, since a roof is what nothing goes beyond.
// `working_set` are the bytes to read over and over: where they fit into a cache, its bandwidth is what is measured.
bool machine_measure(MachineRates* rates, const char* variant, DType dtype, size_t working_set, int threads,
                     Error* error);

#endif
