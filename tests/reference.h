// The truth that tests compare devices with: GPT-2 in float64, written straight from its equations, and seeded random
// models of any shape to run it on, so that no test needs a download.
#ifndef REFERENCE_H
#define REFERENCE_H

#include <stdint.h>

#include "../gpt2.h"

#ifdef __cplusplus
extern "C" {
#endif

// A random model of the given shape, its matrices stored as `dtype`, all tensors in one block that
// reference_model_free() releases. The same seed gives the same weights on every machine. They are lively, so that a
// mistake anywhere shows in the logits: the logits of a position spread by about 3 (standard deviation), every layer
// adds to the residual stream about what the embedding put there, LayerNorm weights lie around 1 and no bias is 0.
bool reference_model(GPT2Model* model, const GPT2Config* config, DType dtype, uint64_t seed, Error* error);
void reference_model_free(GPT2Model* model);

// logits (T, V) for every position of tokens (T), each in [0, V), T <= maxT: GPT-2 in float64 from the tensors as they
// are stored, whatever their format (widening is exact). Nothing is cached, blocked or reordered.
bool reference_forward(double* logits, const GPT2Model* model, const int* tokens, int T, Error* error);

#ifdef __cplusplus
}
#endif

#endif
