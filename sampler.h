// From logits to a token.
#ifndef SAMPLER_H
#define SAMPLER_H

#include <stdint.h>

#include "utils.h"

#ifdef __cplusplus
extern "C" {
#endif

// The order and the meaning are llama.cpp's: repetition penalty, top-k, top-p, min-p, temperature, draw.
typedef struct {
    float temperature;    // divides the logits; 0: greedy, the likeliest token, the lowest id among equals
    int top_k;            // keep the K likeliest; 0: all
    float top_p;          // keep the fewest likeliest tokens whose probabilities sum to P; 1: all
    float min_p;          // keep tokens at least P times as likely as the likeliest; 0: all
    float repeat_penalty; // logits of the last REPEAT_WINDOW tokens: divided by R if > 0, else multiplied; 1: off
} SamplerOptions;

enum { REPEAT_WINDOW = 64 };

typedef struct {
    SamplerOptions options;
    uint64_t state;               // of the generator
    int V;                        // vocabulary
    struct Candidate* candidates; // (V) scratch
} Sampler;

// A sampler for logits (V). `stream` numbers the samples of one run, so that sample b draws the same numbers whatever
// the batch size is. The generator is SplitMix64 (Steele, Lea and Flood 2014), started at a mix of seed and stream. The
// options are copied and not checked. False with the error filled in when memory is short. Release with
// sampler_close().
bool sampler_open(Sampler* sampler, const SamplerOptions* options, int V, uint64_t seed, uint64_t stream, Error* error);
void sampler_close(Sampler* sampler);

// Picks the next token from logits (V), given the num_tokens tokens so far (prompt included). One number is drawn from
// the generator for every token when temperature > 0.
int sampler_next(Sampler* sampler, const float* logits, const int* tokens, size_t num_tokens);

// Draws the number that sampler_next() would draw for this token, uniform in [0, 1): for a device that picks by itself.
double sampler_uniform(Sampler* sampler);

// Likeliest token, the lowest id among equals; a NaN is never the likeliest.
int sampler_argmax(const float* logits, int V);

// A token with its probability under softmax.
typedef struct {
    int id;
    float logit;
    double probability;
} TopToken;

// out (K): the K likeliest tokens of logits (V) in falling order, the lower id first among equals. Needs K <= V. False
// with the error filled in when memory is short.
bool sampler_top(TopToken* out, int K, const float* logits, int V, Error* error);

#ifdef __cplusplus
}
#endif

#endif
