#include "processors.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#ifdef _OPENMP
// Those of all places that OpenMP binds threads to, for users who ask it to (OMP_PROC_BIND).
static cpu_set_t bound_processors(void) {
    cpu_set_t all;
    int ids[CPU_SETSIZE];
    CPU_ZERO(&all);
    for (int place = 0; place < omp_get_num_places(); place++) {
        int n = omp_get_place_num_procs(place);
        if (n > CPU_SETSIZE) continue;
        omp_get_place_proc_ids(place, ids);
        for (int i = 0; i < n; i++) CPU_SET((size_t)ids[i], &all);
    }
    return all;
}

// Does OpenMP bind threads? Then each may run in its own place only, the one that asks too.
static bool is_bound(void) {
    return omp_get_proc_bind() != omp_proc_bind_false && omp_get_num_places() > 0;
}
#endif

// Those that this process may run on; none when that cannot be found out.
static cpu_set_t allowed_processors(void) {
    cpu_set_t allowed;
#ifdef _OPENMP
    if (is_bound()) return bound_processors();
#endif
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) CPU_ZERO(&allowed);
    return allowed;
}

// Those that share a core with `cpu`, itself among them. Linux lists them as "0,64" or "0-1"; where the list cannot be
// read every processor counts as a core.
static cpu_set_t processors_of_core(int cpu) {
    char path[96];
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET(cpu, &core);
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE* f = fopen(path, "r");
    if (f == NULL) return core;
    int first, last;
    while (fscanf(f, "%d", &first) == 1) {
        if (fscanf(f, "-%d", &last) != 1) last = first;
        for (int i = first; i <= last && i < CPU_SETSIZE; i++) CPU_SET(i, &core);
        if (fgetc(f) != ',') break;
    }
    fclose(f);
    return core;
}

int cpu_processors(void) {
    cpu_set_t allowed = allowed_processors();
    int processors = CPU_COUNT(&allowed);
    return processors > 0 ? processors : 1;
}

int cpu_physical_cores(void) {
    cpu_set_t left = allowed_processors();
    int cores = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &left)) continue;
        cpu_set_t core = processors_of_core(cpu), common;
        CPU_AND(&common, &left, &core);
        CPU_XOR(&left, &left, &common);
        cores++;
    }
    return cores > 0 ? cores : 1;
}

int cpu_threads(int asked) {
#ifdef _OPENMP
    int threads = asked > 0 ? asked : cpu_physical_cores(), most = cpu_processors();
    if (omp_get_thread_limit() < most) most = omp_get_thread_limit();
    return threads < most ? threads : most;
#else
    (void)asked;
    return 1;
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// parting threads

#ifdef _OPENMP
// Where threads are, as each finds out for itself.
typedef struct {
    atomic_int threads[CPU_SETSIZE]; // on each processor
    atomic_int duplicates;           // threads that found another where they are
    atomic_int arrived;
} Crowd;

// Is another processor of its core in use, or one that comes before it?
static bool is_second_of_core(const Crowd* crowd, const cpu_set_t* allowed, int cpu) {
    cpu_set_t core = processors_of_core(cpu);
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &core) || !CPU_ISSET(i, allowed)) continue;
        if (i < cpu || atomic_load(&crowd->threads[i]) > 0) return true;
    }
    return false;
}

// Free processor number n, those on free cores first, or -1.
static int free_processor(const Crowd* crowd, const cpu_set_t* allowed, int n) {
    for (int is_second = 0; is_second <= 1; is_second++) {
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (!CPU_ISSET(cpu, allowed) || atomic_load(&crowd->threads[cpu]) > 0) continue;
            if (is_second_of_core(crowd, allowed, cpu) == is_second && n-- == 0) return cpu;
        }
    }
    return -1;
}

static void move_to(int cpu, const cpu_set_t* allowed) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) == 0) sched_setaffinity(0, sizeof *allowed, allowed);
}

// What each thread does: the first on a processor stays. The others choose once all have told where they are; until
// then they yield, so that those that wait for this same processor can.
static void find_own_processor(Crowd* crowd, int num_threads) {
    int cpu = sched_getcpu(), number = -1;
    if (cpu >= 0 && cpu < CPU_SETSIZE && atomic_fetch_add(&crowd->threads[cpu], 1) > 0)
        number = atomic_fetch_add(&crowd->duplicates, 1);
    atomic_fetch_add(&crowd->arrived, 1);
    while (atomic_load(&crowd->arrived) < num_threads) sched_yield();
    if (number < 0) return;
    cpu_set_t allowed = allowed_processors();
    int own = free_processor(crowd, &allowed, number);
    if (own >= 0) move_to(own, &allowed);
}
#endif

void part_threads(int num_threads) {
    (void)num_threads; // without OpenMP there is one
#ifdef _OPENMP
    if (num_threads < 2 || is_bound()) return;
    Crowd crowd = {0};
#pragma omp parallel num_threads(num_threads)
    find_own_processor(&crowd, omp_get_num_threads());
#endif
}
