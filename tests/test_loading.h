// What the tests of all file formats share.
#ifndef TEST_LOADING_H
#define TEST_LOADING_H

#include "test.h"
#include "toy_checkpoint.h"

// Loads `path`, as it is or as `dtype`, and returns how many weights are not the toy's; -1 with the error filled in
// when it is refused.
long load_and_compare(const Toy* toy, const char* path, bool keep_dtype, DType dtype, Error* error);

// Is what lies at `path` refused with a sentence that names it and says `reason`, and is nothing left to free?
void check_refused(Tests* t, const char* path, const char* what, const char* reason);

// Parts of the group test_checkpoint.
void test_huggingface(Tests* t);
void test_image(Tests* t);

#endif
