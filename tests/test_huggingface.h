// Part of the group test_checkpoint: Hugging Face's files.
#ifndef TEST_HUGGINGFACE_H
#define TEST_HUGGINGFACE_H

#include "test.h"

void test_huggingface(Tests* t);

#endif
