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
    double wall;       // seconds of the whole phase; what exceeds the rows' sum is overhead
    double unprofiled; // the same in a run that was not recorded
} Phase;

// Seconds that a machine of these peak rates needs at least for all calls of a row.
double row_roof(const ProfileRow* row, const Roof* rates);

// The rows of one pass from the shapes alone, one for each of its parts, each as fast as the roof allows. Returns how
// many there are.
size_t estimate_rows(ProfileRow rows[MAX_PASS_PARTS], const GPT2Config* config, DType dtype, CallShape pass,
                     const Roof* rates);

double phase_operations(const Phase* phase); // the sum of the rows' seconds

// The sum of the rows' row_roof(): seconds that the phase needs at least.
double phase_roof(const Phase* phase, const Roof* rates);

// One line with the rates of the roof. Errors of writing stay with `out`.
void print_machine(FILE* out, const Roof* rates);

// The table of a phase; with is_measured also what only a run provides: the median, the wait at barriers, the overhead.
void print_phase(FILE* out, const Phase* phase, const Roof* rates, bool is_measured);

// json_machine: "machine": {...}; json_phase: {...}. Neither is followed by a comma.
void json_machine(FILE* out, const Roof* rates);
void json_phase(FILE* out, const Phase* phase, const Roof* rates);

#endif
