// The table of operations that --profile and --estimate print, and the same as JSON.
#ifndef OPERATION_TABLE_H
#define OPERATION_TABLE_H

#include <stdio.h>

#include "profile.h"

// A prefill or some decoded tokens: what was (or would be) done, and how long it took.
typedef struct {
    const char* name; // "prefill", "decode"
    int tokens;       // of each sequence
    ProfileRow* rows; // (num_rows)
    size_t num_rows;
    double wall;       // seconds of the whole phase; what is more than the rows' sum is overhead
    double unprofiled; // seconds of it in a run that was not recorded
} Phase;

double row_roof(const ProfileRow* row, const Roof* rates);

// The rows of one pass of `shape` from the shapes alone, logits for the last token only, each as fast as the roof allows.
void estimate_rows(ProfileRow rows[NUM_OPERATIONS], const GPT2Config* config, DType dtype, CallShape shape,
                   const Roof* rates);

double phase_operations(const Phase* phase); // the sum of the rows' seconds
double phase_roof(const Phase* phase, const Roof* rates);

void print_machine(FILE* out, const Roof* rates);

// With is_measured the columns that only a run fills in: the median, the wait at barriers, the overhead.
void print_phase(FILE* out, const Phase* phase, const Roof* rates, bool is_measured);

// "key": {...} and "key": [...], without what follows.
void json_machine(FILE* out, const Roof* rates);
void json_phase(FILE* out, const Phase* phase, const Roof* rates);

#endif
