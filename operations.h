// What a forward pass consists of, and what each of its operations costs: the sizes of the matrix products, the
// arithmetic and the bytes, from the shapes alone. The profile, the estimate and the roofline follow from this table.
#ifndef OPERATIONS_H
#define OPERATIONS_H

#include "gpt2.h"

#ifdef __cplusplus
extern "C" {
#endif

// The operations of a token in their order. LayerNorm, bias, GELU and residual are parts of the products beside them.
//   id, name in tables and JSON, per layer?
#define GPT2_OPERATIONS(X)                                                                                             \
    X(EMBED, "embedding", false)                                                                                       \
    X(QKV, "qkv", true)                                                                                                \
    X(ATTENTION, "attention", true)                                                                                    \
    X(ATTPROJ, "attproj", true)                                                                                        \
    X(FC, "fc", true)                                                                                                  \
    X(FCPROJ, "fcproj", true)                                                                                          \
    X(HEAD, "head", false)

#define OPERATION_ID(id, name, per_layer) OPERATION_##id,
typedef enum { GPT2_OPERATIONS(OPERATION_ID) NUM_OPERATIONS } Operation;
#undef OPERATION_ID

// The tokens that one call works on: T new ones for each of B sequences that hold `position` tokens already.
typedef struct {
    int B, T, position;
} CallShape;

// One call: out (M, N) = inp (M, K) times a matrix of (N, K).
//   embedding  M rows of C channels, no product (N and K are 0)
//   attention  M = B T queries, N keys each on average, K = C channels of all heads; it has two such products
typedef struct {
    double M, N, K;
    double flops; // multiplications and additions: 2 M N K for a product
    double bytes; // what must be read and written at least once: weights, activations in and out (f32), KV cache
} OperationCost;

const char* operation_name(Operation operation);
int operation_calls(Operation operation, const GPT2Config* config); // of one forward pass: L or 1

// `dtype` is what the matrices are kept as.
OperationCost operation_cost(Operation operation, const GPT2Config* config, DType dtype, CallShape shape);

// Bytes of one number in the KV cache: binary16, but f32 beside f32 weights.
size_t cache_element_bytes(DType dtype);

#ifdef __cplusplus
}
#endif

#endif
