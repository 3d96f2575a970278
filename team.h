// Threads that run the stages of a forward pass together: how they wait for each other, how many take part, and how
// much of the work each takes. No result depends on either.
#ifndef TEAM_H
#define TEAM_H

#include <stdatomic.h>

#include "utils.h"

// Where all threads wait for the last one. They spin for some tens of microseconds, longer than a stage of a small model
// lasts, then give the processor away; with more threads than processors they give it away at once.
typedef struct {
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_int rounds;
    _Alignas(64) atomic_llong yielded; // after spinning, by all threads together, nanoseconds
    int spins;
} Barrier;

// One of the threads, on a cache line of its own.
typedef struct {
    _Alignas(64) double waited; // seconds in this run, for threads with more work to do
    double begin, part;         // its work: from `begin` on the part `part` of what is 1 for all together
} Member;

typedef struct {
    Barrier barrier;
    int num_threads; // at most
    int size;        // in the next run
    double seconds;  // that runs have taken since the size was last thought over
    double reduced;  // since the last thread was let go
    double patience; // until all try again
    Member* members; // (num_threads)
} Team;

// All threads, with equal parts. Release with team_close().
bool team_open(Team* team, int num_threads, Error* error);
void team_close(Team* team);

// Waits until num_threads threads have come here. Returns the seconds that this took.
double team_wait(Team* team, int num_threads);

// The part [begin, end) of n things that `thread` of num_threads takes, a multiple of `unit` but for the last: by the
// speeds of the threads, where the team runs as planned. What it then waits at the end is to be told by team_waited().
void team_part(const Team* team, int thread, int num_threads, size_t n, size_t unit, size_t* begin, size_t* end);
void team_waited(Team* team, int thread, double seconds);

// After a run that took so many seconds, between runs: parts follow the speeds of the threads and, unless the size is
// fixed, threads that only keep the others waiting are let go.
void team_adapt(Team* team, double seconds, bool is_size_fixed);

#endif
