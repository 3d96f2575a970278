// What every benchmark of the CPU needs: a set of measurements, other processes.
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stdio.h>

#include "../utils.h"

enum { MAX_REPEATS = 99 };

// n measurements of one thing, in the order in which they were made: seconds, or bytes per second.
typedef struct {
    double values[MAX_REPEATS];
    int n;
} Times;

void times_add(Times* t, double value);
double times_median(const Times* t); // 0 without measurements
double times_least(const Times* t);
double times_most(const Times* t);
// The median of a[i] / b[i], which were measured side by side. The machine changes from minute to minute, so the
// quotient of two medians may be that of two machines.
double times_median_quotient(const Times* a, const Times* b);

// Prints the reason and ends the program with status 1.
void die(const Error* error) __attribute__((noreturn));

// ---------------------------------------------------------------------------------------------------------------------
// other processes

typedef struct {
    double seconds;       // from the start of the process to its end
    double first_byte;    // from the start to the first byte on its standard output, 0 without one
    double peak_megabyte; // the most memory that it had at a time, 10^6 bytes
    char* output;         // what it wrote to its standard output, ends with a NUL; the caller frees it
} ProcessResult;

// Runs argv (argv[0] is searched in PATH, the last is NULL) to its end, its standard error thrown away. False when it
// cannot be started or does not exit with 0. peak_megabyte is never less than this process has resident itself: Linux
// counts what a process was before exec.
bool process_run(ProcessResult* result, const char* const* argv, Error* error);

// A process that does nothing but take a core, until process_stop().
int process_take_core(Error* error); // its id, or -1
void process_stop(int pid);

#endif
