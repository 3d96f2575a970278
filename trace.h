// How far apart two runs of the same tokens are.
#ifndef TRACE_H
#define TRACE_H

#include "gpt2.h"

// One run of T tokens, layer by layer. The caller owns the arrays.
typedef struct {
    int T, V, C, L;
    float* logits;    // (T, V)
    float* residuals; // (L + 1, T, C) the residual stream after the embedding and after every layer; NULL: unknown
} Trace;

// The residual stream after a layer (or the embedding), at the position where it differs most.
typedef struct {
    double largest; // |a - b| of a channel
    // In Euclid's norm: |a - b| of what the layer added to the stream, relative to |a| of that plus a sixteenth of the
    // stream itself, so that a layer is judged by its own work wherever in the model it is. For the embedding simply
    // |a - b| / |a|.
    double relative;
} LayerDifference;

// The differences of the logits, and of the residual stream.
typedef struct {
    double largest, mean; // of |a - b| over all logits
    double relative;      // largest / the largest distance of a reference's logit from the mean of its position: logits
                          // count only against each other, and GPT-2's share a large offset
    double kl_mean, kl_largest; // Kullback-Leibler divergence from the reference's distribution, nats per position
    int same_argmax;            // positions with the same likeliest token, of T
    LayerDifference* layers;    // (L + 1); NULL: the streams are unknown
    int first_bad;              // 0: the embedding, l: layer l - 1, L + 1: the head, -1: none exceeds its tolerance
} Difference;

// Compares with a reference of the same shape. tolerances (L + 2) are the largest `relative` that pass: after the
// embedding, after every layer, and for the logits. A number that is not finite is infinitely far away. The caller
// frees difference->layers.
bool trace_compare(Difference* difference, const Trace* reference, const Trace* other, const double* tolerances,
                   Error* error);

#endif
