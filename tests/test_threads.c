// Threads: where they run, what each takes of the work, how many take part. Times are made up here, so that nothing
// hangs on what else this machine does; only the parting of threads is real.
#include <math.h>
#include <sched.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "../machine.h"
#include "../processors.h"
#include "../team.h"
#include "test.h"

// ---------------------------------------------------------------------------------------------------------------------
// where they run

#ifdef _OPENMP
// Two threads on the first processor, free to go where they like.
static void meet_on_one(const cpu_set_t* allowed) {
    cpu_set_t one;
    CPU_ZERO(&one);
    int cpu = 0;
    while (!CPU_ISSET(cpu, allowed)) cpu++;
    CPU_SET(cpu, &one);
#pragma omp parallel num_threads(2)
    {
        sched_setaffinity(0, sizeof one, &one);
        sched_setaffinity(0, sizeof *allowed, allowed);
    }
}

// Of so many tries, how often two threads that met on one processor are apart one call of part_threads(size) later, and
// may still go anywhere.
static int count_parted(const cpu_set_t* allowed, int size, int tries) {
    int parted = 0;
    for (int i = 0; i < tries; i++) {
        int cpus[2] = {-1, -1}, free = 0;
        meet_on_one(allowed);
        part_threads(size);
#pragma omp parallel num_threads(2) reduction(+ : free)
        {
            cpu_set_t mine;
            cpus[omp_get_thread_num()] = sched_getcpu();
            free += sched_getaffinity(0, sizeof mine, &mine) == 0 && CPU_EQUAL(&mine, allowed);
        }
        parted += cpus[0] != cpus[1] && free == 2;
    }
    return parted;
}

static void test_parting(Tests* t) {
    enum { TRIES = 40 };
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) {
        test_skip(t, "parting threads needs two processors");
        return;
    }
    int left_alone = count_parted(&allowed, 1, TRIES), parted = 0;
    for (int round = 0; round < 5 && parted <= TRIES * 3 / 4; round++) { // others may have the processors for a while
        parted = count_parted(&allowed, 2, TRIES);
    }
    test_check(t, parted > TRIES * 3 / 4,
               "of two threads on one processor one moves, bound to none: %d of %d times (by itself: %d)", parted,
               TRIES, left_alone);
    double handover = machine_handover();
    test_check(t, handover > 1e-9 && handover < 1e-3, "a cache line goes from one thread to another in %.0f ns",
               1e9 * handover);
    int processors = cpu_processors(), cores = cpu_physical_cores();
    part_threads(2 * processors);
    test_check(t, cores >= 1 && cores <= processors && cpu_threads(1000000) == processors && cpu_threads(0) == cores,
               "%d processors, %d cores: no more threads than processors, one for each core by default", processors,
               cores);
}
#else
static void test_parting(Tests* t) {
    test_skip(t, "parting threads needs OpenMP");
}
#endif

// ---------------------------------------------------------------------------------------------------------------------
// parts

// One run of a team whose threads have these speeds: all wait for the last one. Returns its seconds.
static double run_once(Team* team, const double* speeds) {
    double longest = 0;
    for (int i = 0; i < team->size; i++) longest = fmax(longest, team->members[i].part / speeds[i]);
    for (int i = 0; i < team->size; i++) team_waited(team, i, longest - team->members[i].part / speeds[i]);
    team_adapt(team, 0, longest, true);
    return longest;
}

// n things are dealt out without gap or overlap, in whole units.
static bool is_dealt_out(const Team* team, int num_threads, size_t n, size_t unit) {
    size_t begin, end, last = 0;
    for (int i = 0; i < num_threads; i++) {
        team_part(team, i, num_threads, n, unit, &begin, &end);
        if (begin != last || end < begin || begin % unit != 0) return false;
        last = end;
    }
    return last == n;
}

static void test_parts(Tests* t, Team* team) {
    const double speeds[] = {1, 0.8, 1.6};
    double first = run_once(team, speeds), least = 1 / 3.4, seconds = 0;
    for (int i = 0; i < 300; i++) seconds = run_once(team, speeds);
    test_check(t, seconds < 1.01 * least,
               "threads of speeds 1, 0.8 and 1.6 end together: %.4f of the time of equal parts, %.4f is the least",
               seconds / first, least / first);
    bool is_whole = true;
    for (size_t n = 1; n < 3000; n += 7) {
        for (int threads = 1; threads <= 3; threads++) is_whole &= is_dealt_out(team, threads, n, n % 2 == 0 ? 4 : 1);
    }
    test_check(t, is_whole, "1 to 3000 columns are dealt out whole, to as many threads as planned or fewer");
    double part = team->members[0].part;
    team_waited(team, 1, 0.999);
    team_waited(team, 2, 0.999);
    team_adapt(team, 0, 1, true);
    double change = team->members[0].part / part - 1;
    test_check(t, change < 0 && change > -0.05, "a thread that was interrupted once loses %.1f %% of its part",
               -100 * change);
}

// ---------------------------------------------------------------------------------------------------------------------
// how many

// Runs of 10 ms, one after the other from *now on, in which the others yield for so long while they wait. Returns how
// many threads took part in the last.
static int run_waiting(Team* team, double* now, int runs, double yielded) {
    int size = 0;
    for (int i = 0; i < runs; i++) {
        team_start(team, *now);
        size = team->size;
        atomic_fetch_add(&team->barrier.yielded, (long long)(1e9 * yielded));
        team_adapt(team, *now, *now + 0.010, false);
        *now += 0.010;
    }
    return size;
}

// Of `runs` runs beside a process that always keeps a thread's processor, in how many that thread takes part.
static int count_tries(Team* team, double* now, int runs) {
    int tries = 0;
    for (int i = 0; i < runs; i++) {
        team_start(team, *now);
        tries += team->size == team->num_threads;
        run_waiting(team, now, 1, team->size == team->num_threads ? 0.010 * (team->size - 1) : 0);
    }
    return tries;
}

static void test_size(Tests* t, Team* team) {
    double now = 1000;
    int busy = run_waiting(team, &now, 6, 0.001), lagging = run_waiting(team, &now, 4, 0.018),
        alone = run_waiting(team, &now, 4, 0.009);
    test_check(t, busy == 3 && lagging == 2 && alone == 1,
               "3 threads stay 3 while they wait for a little, are 2 when two wait for a third, 1 when one waits for "
               "the other (%d, %d, %d)",
               busy, lagging, alone);
    double part = team->members[0].part;
    run_waiting(team, &now, 3, 0.018);
    int again = run_waiting(team, &now, 40, 0);
    test_check(t, again == 3 && part == 1, "one alone takes all of the work (%.2f); 0.4 seconds later %d try again",
               part, again);
    run_waiting(team, &now, 3, 0.020);
    int reduced = run_waiting(team, &now, 1, 0);
    now += 0.1;
    int after_pause = run_waiting(team, &now, 1, 0);
    test_check(t, reduced == 2 && after_pause == 3,
               "a thread that was interrupted once (%d go on) takes part in the first run after a pause of 0.1 "
               "seconds (%d)",
               reduced, after_pause);
    run_waiting(team, &now, 6, 0);
    int tries = count_tries(team, &now, 1000);
    test_check(t, tries >= 15 && tries <= 40,
               "a thread whose processor is always taken is tried in %d of 1000 runs of 10 ms, ever more rarely",
               tries);
}

void test_threads(Tests* t) {
    test_section("threads: where they run, what each takes, how many take part");
    Team team;
    Error error;
    test_parting(t);
    if (!team_open(&team, 3, &error)) {
        test_check(t, false, "a team of 3 (%s)", error.text);
        return;
    }
    test_parts(t, &team);
    test_size(t, &team);
    team_close(&team);
}
