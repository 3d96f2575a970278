// A bf16 model's matrices packed without loss (bf16z.h): a quarter less to read for each token.
#ifndef PACK_H
#define PACK_H

#include "gpt2.h"

// Turns the matrices of a model whose dtype is BF16 into BF16Z, on all OpenMP threads. They get memory of their own,
// model->packed; the pages of the old ones are given back once they have been read. After an error (no memory) the
// model may only be freed. `where` is the file.
bool pack_model(GPT2Model* model, const char* where, Error* error);

// Frees model->packed; harmless when nothing is packed.
void pack_free(GPT2Model* model);

#endif
