// GPT-2 with random weights, in memory and as files: speed does not depend on the values.
#ifndef BENCH_MODEL_H
#define BENCH_MODEL_H

#include "../gpt2.h"

// The configuration of "124M", "355M", "774M" or "1558M"; NULL for any other name.
const GPT2Config* bench_shape(const char* name);

// Fills in a model whose matrices are `dtype`. Every weight is a bf16 number of at most 0.05 before it is rounded to
// dtype, so that f32 and bf16 models are the same model. Released by bench_model_free.
bool bench_model_random(GPT2Model* model, const GPT2Config* config, DType dtype, Error* error);
void bench_model_free(GPT2Model* model);

// Writes a tokenizer .bin of V tokens, 512 <= V <= 65000: the single bytes, the merges of "Hello", then pairs of bytes,
// <|endoftext|> last. "Hello" is one token in it, as in GPT-2's.
bool bench_tokenizer_write(const char* path, int V, Error* error);

#endif
