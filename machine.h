// The peak rates of this machine, measured: the roof that a profile is compared with.
#ifndef MACHINE_H
#define MACHINE_H

#include "operations.h"

// One measurement each, of all threads together, with the instructions of the CPU kernel variant `variant`
// (CpuKernels.name), which the processor must have. 0 for an unknown name.
//   read     bytes per second of reading a machine_read_buffer of `bytes` `passes` times, every thread its own contiguous
//            share, as a token reads weights; where they fit into a cache it is the cache's rate
//   f32      operations per second of multiply-adds; one counts as two
//   product  the same of the instruction that products with weights of `dtype` are made of
void* machine_read_buffer(size_t bytes, Error* error); // in huge pages, as weights are; NULL on an error; to be freed
double machine_read_rate(const char* variant, const void* buffer, size_t bytes, int passes, int threads);
double machine_f32_rate(const char* variant, int threads);
double machine_product_rate(const char* variant, DType dtype, int threads);

// Seconds that one thread needs to hand a cache line to another: tens of nanoseconds within one die, hundreds between
// two, each of which has its own path to memory. 0 where no second thread runs.
double machine_handover(void);

// All the rates, each the fastest of several measurements, since a roof is what nothing exceeds. `working_set` is the
// number of bytes to read over and over.
bool machine_measure(Roof* rates, const char* variant, DType dtype, size_t working_set, int threads, Error* error);

#endif
