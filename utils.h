// Small things that every file needs: one-line errors, checked allocation, a monotonic clock, sorting and hashing.
#ifndef UTILS_H
#define UTILS_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// What went wrong, as the one line that the user will read: what, where, and what to do. No newline at its end.
// Functions that can fail take an Error* as their last argument and return false or NULL after filling it in.
typedef struct {
    char text[1024];
} Error;

// Fills in the error and returns false, so that a function can end with `return fail(error, "...")`. Control characters
// become question marks.
bool fail(Error* error, const char* format, ...) __attribute__((format(printf, 2, 3)));

// count * size bytes, aligned to 64 and not cleared (pages that are never touched cost nothing); NULL with the error
// filled in when the product overflows or memory is short. `what` names the thing in the message and, where the user
// can do something about it, what would make it smaller. Release with free().
void* allocate(size_t count, size_t size, const char* what, Error* error);

// Seconds since some fixed moment, from the monotonic clock.
double seconds_now(void);

// Are all n numbers finite?
bool all_finite(const float* numbers, size_t n);

// Sorts n numbers in rising order.
void sort_numbers(double* numbers, size_t n);

// The p-quantile of n sorted numbers, n > 0, interpolated linearly between its neighbours; 0.5: the median.
double quantile(const double* sorted, size_t n, double p);

// FNV-1a, 64 bit, of n bytes: the fingerprint that the report prints for logits.
unsigned long long hash_bytes(const void* data, size_t n);

#ifdef __cplusplus
}
#endif

#endif
