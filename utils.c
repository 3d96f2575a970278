#include "utils.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

bool fail(Error* error, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
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

unsigned long long hash_bytes(const void* data, size_t n) {
    const unsigned char* bytes = data;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}
