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

// The tokens that one call processes: T new ones for each of B sequences that hold `position` tokens already.
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

// The name in tables and JSON. The text is static.
const char* operation_name(Operation operation);
int operation_calls(Operation operation, const GPT2Config* config); // in one forward pass: L or 1

// The cost of one call; `dtype` is that of the matrices.
OperationCost operation_cost(Operation operation, const GPT2Config* config, DType dtype, CallShape shape);

// The peak rates of a machine: the roof of the roofline (Williams, Waterman and Patterson, 2009). A multiply-add counts
// as two operations.
typedef struct {
    double bandwidth;   // bytes per second
    size_t working_set; // the bytes that were read over and over to measure it, or 0
    double f32;         // operations per second of multiply-adds in f32
    double products;    // operations per second of the instruction that products with the weights are made of
    double attention;   // the same for attention: as f32 on the CPU, as products on a GPU
} Roof;

// Do the bytes take longer than the arithmetic?
bool is_bound_by_memory(Operation operation, const OperationCost* cost, const Roof* roof);

// Seconds that the machine needs at least: for the bytes or for the arithmetic, whichever takes longer.
double operation_roof(Operation operation, const OperationCost* cost, const Roof* roof);

// The same for a whole pass, with logits for the last token only. All tokens pass through all layers here; the CPU
// spares those without logits most of the last one. Ignores launches, barriers and cache misses.
double pass_roof(const GPT2Config* config, DType dtype, CallShape shape, const Roof* roof);

// The shape that an operation has in such a pass.
CallShape operation_shape(Operation operation, CallShape pass);

// Bytes of one number in the KV cache: binary16, or f32 when the weights are f32.
size_t cache_element_bytes(DType dtype);

#ifdef __cplusplus
}
#endif

#endif
