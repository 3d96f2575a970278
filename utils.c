#include "utils.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

// Names from files and arguments may hold anything: line feeds and other controls (ASCII's, and Unicode's U+0080 to
// U+009F, which are C2 80 to C2 9F) become question marks, so that an error is one line and harmless on a terminal.
static void make_one_line(char* text) {
    for (unsigned char* c = (unsigned char*)text; *c != '\0'; c++) {
        if (*c < ' ' || *c == 0x7f) *c = '?';
        if (c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) c[0] = c[1] = '?';
    }
}

bool fail(Error* error, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    make_one_line(error->text);
    return false;
}

void* allocate(size_t count, size_t size, const char* what, Error* error) {
    size_t bytes;
    void* memory = NULL;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        fail(error, "%s: %zu x %zu bytes do not fit into this machine's address space", what, count, size);
        return NULL;
    }
    if (posix_memalign(&memory, 64, bytes > 0 ? bytes : 1) != 0) {
        fail(error, "%s: no memory for %zu bytes", what, bytes);
        return NULL;
    }
    return memory;
}

double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool all_finite(const float* numbers, size_t n) {
    int other = 0; // without an early end, so that the loop becomes vectors
    for (size_t i = 0; i < n; i++) other |= !isfinite(numbers[i]);
    return other == 0;
}

static int by_value(const void* left, const void* right) {
    double a = *(const double*)left, b = *(const double*)right;
    return (a > b) - (a < b);
}

void sort_numbers(double* numbers, size_t n) {
    qsort(numbers, n, sizeof *numbers, by_value);
}

double quantile(const double* sorted, size_t n, double p) {
    double rank = p * (double)(n - 1);
    size_t below = (size_t)rank;
    double share = rank - (double)below;
    return below + 1 < n ? sorted[below] * (1 - share) + sorted[below + 1] * share : sorted[n - 1];
}

unsigned long long hash_bytes(const void* data, size_t n) {
    const unsigned char* bytes = data;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}
