// The processors that this process may run on, and how its threads spread over them.
#ifndef PROCESSORS_H
#define PROCESSORS_H

// Processors that this process may run on, at least 1.
int cpu_processors(void);

// Physical cores among them: the default for the number of threads.
int cpu_physical_cores(void);

// The number of threads to run with when `asked` are requested, 0 for the default: no more than the processors that
// this process may run on, since more would only wait for each other, and no more than OMP_THREAD_LIMIT. One in a build
// without OpenMP.
int cpu_threads(int asked);

// Threads that wake together often wake on the same processor, and the system takes 10 ms and more to separate them.
// Wakes the threads of the caller's next parallel region of num_threads threads and moves each that shares a processor
// to a free one, on a free core where there is one. None is bound to it afterwards. Threads that OpenMP binds stay
// where they are.
void part_threads(int num_threads);

#endif
