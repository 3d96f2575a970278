// What GPUs can do at most that are not here, from what their makers publish.
#ifndef CHIPS_H
#define CHIPS_H

#include "operations.h"

// Bandwidth of the memory in GB/s; matrix instructions on bf16 or f16 and vector instructions on f32 in GFLOP/s.
typedef struct {
    const char* name;
    double bandwidth, matrix, f32;
} Chip;

enum { NUM_CHIPS = 4 };

extern const Chip chips[NUM_CHIPS];

// For weights of a type.
Roof chip_rates(const Chip* chip, DType dtype);

#endif
