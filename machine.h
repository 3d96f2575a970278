// What this machine can do at most, measured: the roof that a profile compares with.
#ifndef MACHINE_H
#define MACHINE_H

#include "operations.h"

// Measures all threads together, with the instructions of the CPU kernel variant of that name (CpuKernels.name), which the processor must
// have, for weights of `dtype`. Each figure is the fastest of several, since a roof is what nothing goes beyond.
// `working_set` are the bytes to read over and over: where they fit into a cache, its bandwidth is what is measured.
bool machine_measure(Roof* rates, const char* variant, DType dtype, size_t working_set, int threads, Error* error);

#endif
