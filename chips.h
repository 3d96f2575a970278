// Peak rates of GPUs that need not be present, from published figures.
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

// The chip's peak rates for a model whose weights are `dtype`.
Roof chip_rates(const Chip* chip, DType dtype);

#endif
