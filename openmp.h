// <omp.h>, or single-thread stand-ins without OpenMP.
#ifndef OPENMP_H
#define OPENMP_H

#ifdef _OPENMP
#include <omp.h>
#else
static inline int omp_get_max_threads(void) {
    return 1;
}
static inline int omp_get_num_threads(void) {
    return 1;
}
static inline int omp_get_thread_num(void) {
    return 0;
}
#endif

#endif
