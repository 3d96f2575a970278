#include "team.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>

#include "processors.h"

// Seconds until threads that were let go are tried again: the first time, and at most.
static const double least_patience = 0.1, most_patience = 4;

static void part_equally(Team* team) {
    for (int t = 0; t < team->size; t++) {
        team->members[t] = (Member){.begin = (double)t / team->size, .part = 1.0 / team->size};
    }
}

bool team_open(Team* team, int num_threads, Error* error) {
    *team = (Team){.num_threads = num_threads, .size = num_threads, .patience = least_patience / 2};
    team->barrier.spins = num_threads <= cpu_processors() ? 2000 : 0;
    team->members = allocate((size_t)num_threads, sizeof *team->members, "threads", error);
    if (team->members == NULL) return false;
    part_equally(team);
    return true;
}

void team_close(Team* team) {
    free(team->members);
}

// ---------------------------------------------------------------------------------------------------------------------
// waiting

static inline void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

double team_wait(Team* team, int num_threads) {
    Barrier* barrier = &team->barrier;
    if (num_threads == 1) return 0;
    int round = atomic_load_explicit(&barrier->rounds, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) == num_threads - 1) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&barrier->rounds, round + 1, memory_order_release);
        return 0;
    }
    double start = seconds_now();
    for (int spins = 0; spins < barrier->spins; spins++) {
        if (atomic_load_explicit(&barrier->rounds, memory_order_acquire) != round) return seconds_now() - start;
        cpu_relax();
    }
    double spun = seconds_now();
    while (atomic_load_explicit(&barrier->rounds, memory_order_acquire) == round) sched_yield();
    double end = seconds_now();
    atomic_fetch_add_explicit(&barrier->yielded, (long long)(1e9 * (end - spun)), memory_order_relaxed);
    return end - start;
}

// ---------------------------------------------------------------------------------------------------------------------
// parts

// Where the thread's part of n things begins.
static size_t begin_of(const Team* team, int thread, int num_threads, size_t n, size_t unit) {
    if (thread == num_threads) return n;
    bool is_as_planned = num_threads == team->size; // the system may have given fewer threads
    double begin = is_as_planned ? team->members[thread].begin : (double)thread / num_threads;
    return (size_t)(begin * (double)n) / unit * unit;
}

void team_part(const Team* team, int thread, int num_threads, size_t n, size_t unit, size_t* begin, size_t* end) {
    *begin = begin_of(team, thread, num_threads, n, unit);
    *end = begin_of(team, thread + 1, num_threads, n, unit);
}

void team_waited(Team* team, int thread, double seconds) {
    team->members[thread].waited += seconds;
}

// The part of the work by the time that the thread was busy in a run of so many seconds.
static double speed(const Member* member, double seconds) {
    return member->part / fmax(seconds - member->waited, 0.01 * seconds);
}

// Processors differ, in kind, in their way to memory, in what else they do: a thread that waits for the others is
// faster and gets a greater part from now on. Parts move a tenth of the way to where all would end together, and by
// about 2 % at most, so that one interruption does not count for much.
static void adapt_parts(Team* team, double seconds) {
    double speeds = 0, sum = 0, begin = 0;
    for (int t = 0; t < team->size; t++) speeds += speed(&team->members[t], seconds);
    for (int t = 0; t < team->size; t++) {
        Member* member = &team->members[t];
        double aim = speed(member, seconds) / speeds;
        member->part *= 1 + fmax(-0.02, fmin(0.1 * (aim / member->part - 1), 0.02));
        sum += member->part;
    }
    for (int t = 0; t < team->size; t++) {
        double part = team->members[t].part / sum;
        team->members[t] = (Member){.begin = begin, .part = part};
        begin += part;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// size

void team_start(Team* team, double now) {
    if (team->size == team->num_threads || now - team->reduced < team->patience) return;
    team->size = team->num_threads;
    team->seconds = 0;
    atomic_store(&team->barrier.yielded, 0);
    part_equally(team);
}

// A thread that has lost its processor to another process keeps all others waiting, for milliseconds each time. While
// one of n threads lags behind, the others wait for a share w of the time; without it they would take
// (1 - w) n / (n - 1) of the time, less as soon as w > 1 / n, and then one is let go. From time to time all try again,
// ever more rarely as long as it is in vain.
static void adapt_size(Team* team, double seconds, double now) {
    const double window = 0.025;
    team->seconds += seconds;
    if (team->seconds < window) return;
    double waited = 1e-9 * (double)atomic_exchange(&team->barrier.yielded, 0); // w (n - 1) of the time
    if (team->size > 1 && waited * team->size > (team->size - 1) * team->seconds) {
        if (team->size == team->num_threads) team->patience = fmin(2 * team->patience, most_patience);
        team->size--;
        team->reduced = now;
        part_equally(team);
    } else if (team->size == team->num_threads) {
        team->patience = least_patience / 2; // doubled when a thread is let go
    }
    team->seconds = 0;
}

void team_adapt(Team* team, double start, double end, bool is_size_fixed) {
    adapt_parts(team, end - start);
    if (!is_size_fixed) adapt_size(team, end - start, end);
}
