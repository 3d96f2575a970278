// Threads that run the stages of a forward pass together: how they wait for each other, how many take part, and how
// much of the work each takes. No result depends on either.
#ifndef TEAM_H
#define TEAM_H

#include <stdatomic.h>

#include "utils.h"

// Where all threads wait for the last one. They spin for a few tens of microseconds, longer than a stage of a small
// model lasts, then yield the processor; with more threads than processors they yield at once.
typedef struct {
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_int rounds;
    _Alignas(64) atomic_llong yielded; // after spinning, by all threads together, nanoseconds
    int spins;
} Barrier;

// One of the threads, on a cache line of its own.
typedef struct {
    _Alignas(64) double waited; // seconds in this run, for threads with more work to do
    double begin, part;         // its work: from `begin` on, `part` of the whole, which is 1
} Member;

typedef struct {
    Barrier barrier;
    int num_threads; // at most
    int size;        // in the next run
    double seconds;  // that runs have taken since the size was last reconsidered
    double reduced;  // when the last thread was left out, as seconds_now() counts
    double patience; // seconds from then on until all try again
    Member* members; // (num_threads)
} Team;

// A team of num_threads threads with equal parts. False with the error filled in when memory is short. Release with
// team_close().
bool team_open(Team* team, int num_threads, Error* error);
void team_close(Team* team);

// Waits until num_threads threads have arrived. Returns the seconds that this took.
double team_wait(Team* team, int num_threads);

// The part [begin, end) of n items that `thread` of num_threads takes, a multiple of `unit` except for the last: by the
// speeds of the threads, where the team runs as planned. The time it then waits at the end must be reported with
// team_waited().
void team_part(const Team* team, int thread, int num_threads, size_t n, size_t unit, size_t* begin, size_t* end);
void team_waited(Team* team, int thread, double seconds);

// Before a run: threads that were left out take part again when that is long enough ago. Times as seconds_now() counts.
void team_start(Team* team, double now);

// After a run from `start` to `end`, while none runs: parts follow the speeds of the threads and, unless the size is
// fixed, threads that only keep the others waiting are left out.
void team_adapt(Team* team, double start, double end, bool is_size_fixed);

#endif
