// The smallest test harness that returns a verdict: every check prints the claim it judged, and its figure.
#ifndef TEST_H
#define TEST_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int passed, failed, skipped;
} Tests;

// Prints a heading for the checks that follow.
void test_section(const char* title);

// Judges one claim; the printf-style text reads as a sentence and holds the figure that was judged. Returns ok.
bool test_check(Tests* t, bool ok, const char* claim, ...) __attribute__((format(printf, 3, 4)));

// Notes a check that this machine cannot make, and why.
void test_skip(Tests* t, const char* why, ...) __attribute__((format(printf, 2, 3)));

// The groups. Each is one file of tests/.
void test_dtype(Tests* t);
void test_tokenizer(Tests* t);
void test_checkpoint(Tests* t);
void test_sampler(Tests* t);
void test_kernels(Tests* t);
void test_threads(Tests* t);
void test_model(Tests* t);
void test_inside(Tests* t);
void test_cli(Tests* t);
void test_hostile(Tests* t);      // files made to do harm
void test_surroundings(Tests* t); // the program at its limits, and where its surroundings fail
void test_long(Tests* t);         // a thousand generations in one process
void test_hip(Tests* t);

#ifdef __cplusplus
}
#endif

#endif
